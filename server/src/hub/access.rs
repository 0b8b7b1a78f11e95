//! Who is asking, and what they may see and do.
//!
//! Invariants: a repository that the caller may not read is "not found", in the same words as one that does not exist, and after the
//! same work; a token is looked up on every request, and again whenever a right is decided (after a body that took long, say), so that
//! a revocation counts at once; a decision is made on a view that shows the repository's last event.

use reprise_engine::{
    event::{Scope, TokenRecord},
    id::Position,
};
use reprise_projections::{RepoRow, View};

use crate::hub::{Hub, HubError, Repo, repos::NewRepo};

/// Who is asking. In handlers it is an extractor over the `Authorization` header ([`crate::http::extract`]): a bad,
/// expired or revoked token is 401 there, even where none is needed.
#[derive(Clone, Debug)]
pub enum Caller {
    /// No token.
    Anonymous,
    /// Whoever can read the data directory's secret.
    Operator,
    /// A valid token.
    Token(TokenRecord),
}

impl Caller {
    /// The name that events carry.
    pub fn actor(&self) -> String {
        match self {
            Caller::Anonymous => "anonymous".to_owned(),
            Caller::Operator => "operator".to_owned(),
            Caller::Token(token) => format!("{}:{}", token.owner, token.token),
        }
    }

    /// Whether the caller has `scope` for this repository. Public reading is not asked here.
    pub fn allows(&self, owner: &str, slug: &str, scope: Scope) -> bool {
        match self {
            Caller::Anonymous => false,
            Caller::Operator => true,
            Caller::Token(token) => {
                token.owner == owner && token.repo.as_deref().is_none_or(|only| only == slug) && token.scope >= scope
            }
        }
    }

    /// Whether the caller may read the repository.
    pub fn may_read(&self, row: &RepoRow) -> bool {
        row.is_public() || self.allows(&row.record.owner, &row.record.slug, Scope::Read)
    }
}

impl Hub {
    /// The repository and a view that shows its last event, if the caller may read it.
    ///
    /// Errors: `NotFound` when there is none or it is not for these eyes; `Unavailable` when the index is > 5 s behind.
    pub async fn readable(&self, caller: &Caller, owner: &str, slug: &str) -> Result<(Repo, View), HubError> {
        let (mut row, mut view) = self.find_repo(owner, slug).await?;
        if !row.as_ref().is_some_and(|row| caller.may_read(row)) && self.is_behind(&view).await? {
            (row, view) = self.find_repo(owner, slug).await?;
        }
        self.still_valid(caller, &view)?;
        match row {
            Some(row) if caller.may_read(&row) => Ok((Repo::of(row), view)),
            _ => Err(self.not_found(owner, slug).await),
        }
    }

    /// The repository and a view that shows its last event, if the caller may push to it. With `create_on_push` and a
    /// server that allows it, an unknown repository is a new one for its owner's write token ([`Repo::is_new`]).
    ///
    /// Errors: `Unauthorized` without a token; `Forbidden` for those who may only read; `NotFound` for everyone else.
    pub async fn writable(
        &self,
        caller: &Caller,
        owner: &str,
        slug: &str,
        create_on_push: bool,
    ) -> Result<(Repo, View), HubError> {
        self.permitted(caller, owner, slug, Scope::Write, create_on_push).await
    }

    /// As [`Hub::writable`], for what needs `scope`.
    pub(crate) async fn permitted(
        &self,
        caller: &Caller,
        owner: &str,
        slug: &str,
        scope: Scope,
        create_on_push: bool,
    ) -> Result<(Repo, View), HubError> {
        if matches!(caller, Caller::Anonymous) {
            return Err(HubError::Unauthorized("a token is required: muse auth login".to_owned()));
        }
        let allowed = caller.allows(owner, slug, scope);
        let (mut row, mut view) = self.find_repo(owner, slug).await?;
        // Whether it is hidden or not there: both take the look that the answer may rest on.
        let is_denied = !row.as_ref().is_some_and(|row| allowed || caller.may_read(row));
        if is_denied && self.is_behind(&view).await? {
            (row, view) = self.find_repo(owner, slug).await?;
        }
        self.still_valid(caller, &view)?;
        match (row, self.create_on_push) {
            (Some(row), _) if allowed => Ok((Repo::of(row), view)),
            (Some(row), _) if caller.may_read(&row) => {
                Err(HubError::Forbidden(format!("this token may not {} {owner}/{slug}", verb(scope))))
            }
            (None, Some(visibility)) if allowed && create_on_push => {
                let record = self.record_of_new(NewRepo { visibility, ..NewRepo::named(owner, slug) })?;
                self.check_repo_count(owner).await?;
                let row = RepoRow { record, position: Position::ZERO };
                Ok((Repo { is_new: true, ..Repo::of(row) }, view))
            }
            _ => Err(self.not_found(owner, slug).await),
        }
    }

    /// A token that was valid when the request began may have ended since.
    fn still_valid(&self, caller: &Caller, view: &View) -> Result<(), HubError> {
        match caller {
            Caller::Anonymous | Caller::Operator => Ok(()),
            Caller::Token(token) => self.valid_token(view, token.hash).map(drop),
        }
    }

    /// "There is none", said no earlier for a repository that is hidden than for one that is not there: both are known
    /// only once all that is durable is folded.
    pub(crate) async fn not_found(&self, owner: &str, slug: &str) -> HubError {
        match self.view_at(self.engine.durable().position).await {
            Ok(_) => no_such_repo(owner, slug),
            Err(error) => error,
        }
    }

    /// The live repository of that name, whoever asks, and a view that shows its last event. Two point reads of hot rows,
    /// done where it stands: handing them to another thread costs ten times as much, several times per request.
    pub(crate) async fn find_repo(&self, owner: &str, slug: &str) -> Result<(Option<RepoRow>, View), HubError> {
        let view = self.view().await;
        match view.repo_by_name(owner, slug)? {
            Some(row) => {
                let last = self.engine.last_position_of(row.record.repo);
                if view.checkpoint().position >= last {
                    return Ok((Some(row), view));
                }
                self.find_repo_at(last, owner, slug).await
            }
            // Perhaps it was created a moment ago.
            None => {
                let end = self.engine.durable().position;
                if view.checkpoint().position >= end {
                    return Ok((None, view));
                }
                self.find_repo_at(end, owner, slug).await
            }
        }
    }

    async fn find_repo_at(
        &self,
        position: Position,
        owner: &str,
        slug: &str,
    ) -> Result<(Option<RepoRow>, View), HubError> {
        let view = self.view_at(position).await?;
        Ok((view.repo_by_name(owner, slug)?, view))
    }
}

fn no_such_repo(owner: &str, slug: &str) -> HubError {
    let name: String = format!("{owner}/{slug}").chars().take(160).collect();
    HubError::NotFound(format!("there is no repository {name} here, or it is private and this token may not read it"))
}

fn verb(scope: Scope) -> &'static str {
    match scope {
        Scope::Read => "read",
        Scope::Write => "push to",
        Scope::Admin => "administer",
    }
}
