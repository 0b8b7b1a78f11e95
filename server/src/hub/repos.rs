//! Repositories: create, list, show, update, delete.
//!
//! Invariants: a name is taken by the log's condition, never by a look at an index; a listing holds only what the caller
//! may read; a new repository has no branches (a branch would make the first push "diverged").

use reprise_engine::{
    clock::random16,
    engine::{Condition, Proposal},
    event::{EventBody, RepoDeleted, RepoRecord, Scope, Visibility},
    id::RepoId,
    object::names,
};
use reprise_projections::RepoRow;

use crate::hub::{Appended, Caller, Hub, HubError, Repo, quarantine};

/// `OWNER/SLUG`, as somebody wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RepoName {
    /// First part.
    pub owner: String,
    /// Second part.
    pub slug: String,
}

/// What a new repository is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewRepo {
    /// First part of its name.
    pub owner: String,
    /// Second part of its name.
    pub slug: String,
    /// The client's domain.
    pub domain: String,
    /// Empty: the first push decides.
    pub default_branch: String,
    /// Who may read it.
    pub visibility: Visibility,
}

impl NewRepo {
    /// A public repository of the domain `code`, its default branch open.
    pub fn named(owner: &str, slug: &str) -> NewRepo {
        NewRepo {
            owner: owner.to_owned(),
            slug: slug.to_owned(),
            domain: DOMAIN_DEFAULT.to_owned(),
            default_branch: String::new(),
            visibility: Visibility::Public,
        }
    }
}

/// What changes about a repository; `None` stays.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RepoChange {
    /// First part of its name.
    pub owner: Option<String>,
    /// Second part of its name.
    pub slug: Option<String>,
    /// The client's domain.
    pub domain: Option<String>,
    /// The branch a clone checks out.
    pub default_branch: Option<String>,
    /// Who may read it.
    pub visibility: Option<Visibility>,
}

impl Repo {
    /// Its settings once `branch` is its first one, where that makes it the default branch: none was chosen, and the stock client
    /// can check it out, which it cannot with a slash in the name.
    pub(crate) fn with_first_branch(&self, branch: &str) -> Option<RepoRecord> {
        let record = &self.row.record;
        let is_default = record.default_branch.is_empty() && !branch.contains('/');
        is_default.then(|| RepoRecord { default_branch: branch.to_owned(), ..record.clone() })
    }

    /// The event that says so of a repository that is there, and what must be true for it.
    pub(crate) fn first_branch(&self, branch: &str) -> Option<([Condition; 2], EventBody)> {
        let record = self.with_first_branch(branch)?;
        let conditions = [Condition::NoRefs(record.repo), Condition::RepoAt(record.repo, self.row.position)];
        Some((conditions, EventBody::RepoUpdated(record)))
    }
}

impl Hub {
    /// Creates a repository. The caller's right is checked by whoever calls (`Scope::Admin`, or `Write` on push).
    ///
    /// Errors: `Invalid` for a name outside the grammar; `NotAppended` when the name is taken.
    pub(crate) async fn create_repo(&self, caller: &Caller, new: NewRepo) -> Result<RepoRecord, HubError> {
        let record = self.record_of_new(new)?;
        self.check_repo_count(&record.owner).await?;
        let free = Condition::NameFree { owner: record.owner.clone(), slug: record.slug.clone() };
        self.append_as(caller, vec![free], EventBody::RepoCreated(record.clone())).await?;
        Ok(record)
    }

    /// Refuses one more repository for an owner who has as many as he may.
    pub(crate) async fn check_repo_count(&self, owner: &str) -> Result<(), HubError> {
        let (view, max, whose) = (self.view().await, self.limits.repos_per_owner_max, owner.to_owned());
        if self.read(move || Ok(view.count_repos(&whose, max)?)).await? < max {
            return Ok(());
        }
        Err(HubError::TooLarge(format!("'{owner}' has {max} repositories, which is the limit: delete some first")))
    }

    /// The settings of a repository that is to be created, checked.
    pub(crate) fn record_of_new(&self, new: NewRepo) -> Result<RepoRecord, HubError> {
        check_name(&new.owner, &new.slug)?;
        check_settings(&new.domain, &new.default_branch)?;
        Ok(RepoRecord {
            repo: RepoId::from_random(random16(self.engine.random().as_ref())?),
            owner: new.owner,
            slug: new.slug,
            domain: new.domain,
            default_branch: new.default_branch,
            visibility: new.visibility,
            created_ms: self.now_ms(),
        })
    }

    /// Repositories that the caller may read, in name order after `after`, at most `limit`.
    pub async fn list_repos(
        &self,
        caller: &Caller,
        after: Option<(String, String)>,
        limit: usize,
    ) -> Result<Vec<RepoRow>, HubError> {
        // A change of visibility that was answered counts.
        let (view, caller) = (self.view_at(self.engine.durable().position).await?, caller.clone());
        self.read(move || {
            let mut found: Vec<RepoRow> = Vec::new();
            let mut after = after;
            loop {
                let page = view.repos(after.as_ref().map(|(o, s)| (o.as_str(), s.as_str())), LIST_PAGE)?;
                let Some(last) = page.last() else { return Ok(found) };
                after = Some((last.record.owner.clone(), last.record.slug.clone()));
                let end = page.len() < LIST_PAGE;
                found.extend(page.into_iter().filter(|row| caller.may_read(row)));
                if found.len() >= limit || end {
                    found.truncate(limit);
                    return Ok(found);
                }
            }
        })
        .await
    }

    /// Changes a repository's settings. Another name needs the right to create a repository of that name.
    pub async fn update_repo(
        &self,
        caller: &Caller,
        owner: &str,
        slug: &str,
        change: RepoChange,
    ) -> Result<RepoRecord, HubError> {
        let (repo, _) = self.permitted(caller, owner, slug, Scope::Admin, false).await?;
        let mut record = repo.row.record;
        // On the settings that were read: two changes at once do not undo each other.
        let mut conditions = vec![Condition::RepoAt(record.repo, repo.row.position)];
        record.owner = change.owner.unwrap_or(record.owner);
        record.slug = change.slug.unwrap_or(record.slug);
        if (record.owner.as_str(), record.slug.as_str()) != (owner, slug) {
            conditions.push(self.may_be_named(caller, &record.owner, &record.slug, owner).await?);
        }
        record.domain = change.domain.unwrap_or(record.domain);
        record.default_branch = change.default_branch.unwrap_or(record.default_branch);
        record.visibility = change.visibility.unwrap_or(record.visibility);
        check_settings(&record.domain, &record.default_branch)?;
        self.append_as(caller, conditions, EventBody::RepoUpdated(record.clone())).await?;
        Ok(record)
    }

    /// Whether the caller may give a repository this name; what must be true then.
    async fn may_be_named(
        &self,
        caller: &Caller,
        owner: &str,
        slug: &str,
        before: &str,
    ) -> Result<Condition, HubError> {
        check_name(owner, slug)?;
        if !caller.allows(owner, slug, Scope::Admin) {
            return Err(HubError::Forbidden(format!("this token may not create {owner}/{slug}")));
        }
        if owner != before {
            self.check_repo_count(owner).await?;
        }
        Ok(Condition::NameFree { owner: owner.to_owned(), slug: slug.to_owned() })
    }

    /// Deletes a repository and all that belongs to it. Its name is free again; its packs stay until collected.
    pub async fn delete_repo(&self, caller: &Caller, owner: &str, slug: &str) -> Result<RepoRecord, HubError> {
        let (repo, _) = self.permitted(caller, owner, slug, Scope::Admin, false).await?;
        let record = repo.row.record;
        let gone = RepoDeleted { repo: record.repo, owner: record.owner.clone(), slug: record.slug.clone() };
        self.append_as(caller, vec![Condition::RepoLive(record.repo)], EventBody::RepoDeleted(gone)).await?;
        Ok(record)
    }

    /// One event by `caller`, under a fresh push id.
    pub(crate) async fn append_as(
        &self,
        caller: &Caller,
        conditions: Vec<Condition>,
        event: EventBody,
    ) -> Result<Appended, HubError> {
        let push = self.random_push_id()?;
        self.append(Proposal { push, fingerprint: 0, actor: caller.actor(), conditions, events: vec![event] }).await
    }
}

fn check_name(owner: &str, slug: &str) -> Result<(), HubError> {
    names::check_owner(owner)?;
    names::check_slug(slug)?;
    if OWNERS_RESERVED.contains(&owner) {
        return Err(HubError::Invalid(format!("the owner name '{owner}' is reserved for the server")));
    }
    quarantine::check_owner(owner)
}

fn check_settings(domain: &str, default_branch: &str) -> Result<(), HubError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    if domain.is_empty() || domain.len() > DOMAIN_BYTES_MAX || !domain.bytes().all(plain) {
        return Err(HubError::Invalid(format!(
            "a domain is 1 to {DOMAIN_BYTES_MAX} characters of a-z, 0-9, '-' and '_'"
        )));
    }
    if default_branch.is_empty() {
        return Ok(());
    }
    names::check_ref(default_branch)?;
    if default_branch.contains('/') {
        // The stock client cannot clone such a repository.
        return Err(HubError::Invalid(
            "a default branch may not contain '/': the client could not clone it".to_owned(),
        ));
    }
    Ok(())
}

const DOMAIN_DEFAULT: &str = "code";
const DOMAIN_BYTES_MAX: usize = 64;
/// First path segments that are routes of the server.
const OWNERS_RESERVED: [&str; 4] = ["api", "health", "ready", "metrics"];
/// Rows that one step of a listing reads.
const LIST_PAGE: usize = 512;
