//! Whether two views answer alike: by digest, and by asking both for everything that a log names.
//!
//! Invariants: only what a view says to anyone is asked, point reads, merges and scans; every live repository is asked for every
//! object of the log, so that a row under the wrong repository shows as well as a missing one; a read that is refused is an
//! error, never an answer.

use std::{collections::BTreeSet, fmt::Debug};

use reprise_engine::{
    Result,
    event::{Event, EventBody},
    id::{Kind, ObjectId, PackId, TokenHash},
};
use reprise_projections::{RepoScope, View};

/// What to ask for: the names in a log.
#[derive(Default)]
pub struct Questions {
    objects: BTreeSet<(Kind, ObjectId)>,
    packs: BTreeSet<PackId>,
    tokens: BTreeSet<TokenHash>,
    names: BTreeSet<(String, String)>,
    branches: BTreeSet<String>,
    releases: BTreeSet<String>,
}

impl Questions {
    /// Everything that the events name.
    pub fn of<'a>(events: impl IntoIterator<Item = &'a Event>) -> Questions {
        let mut questions = Questions::default();
        events.into_iter().for_each(|event| questions.add(&event.body));
        questions
    }

    fn add(&mut self, event: &EventBody) {
        match event {
            EventBody::RepoCreated(record) | EventBody::RepoUpdated(record) => {
                self.names.insert((record.owner.clone(), record.slug.clone()));
            }
            EventBody::ObjectsReceived(received) => {
                self.packs.insert(received.pack);
                self.objects.extend(received.rows.iter().map(|row| (row.kind, row.id)));
            }
            EventBody::RefsUpdated(moved) => {
                self.branches.extend(moved.updates.iter().map(|update| update.name.clone()));
            }
            EventBody::ReleasePublished(release) => drop(self.releases.insert(release.tag.clone())),
            EventBody::TokenIssued(token) => drop(self.tokens.insert(token.hash)),
            EventBody::RowsCondemned(condemned) => self.objects.extend(condemned.rows.iter().copied()),
            EventBody::PacksRelocated(moved) => self.packs.extend(moved.packs.iter().map(|(pack, _)| *pack)),
            EventBody::RepoDeleted(_)
            | EventBody::TagsSet(_)
            | EventBody::TagsDeleted(_)
            | EventBody::ReleaseRetracted(_)
            | EventBody::TokenRevoked(_) => {}
        }
    }

    /// Where `view` answers otherwise than `expected` does; `None` if nowhere. An error if either refuses to answer.
    pub fn difference(&self, view: &View, expected: &View) -> Result<Option<String>> {
        let (digest, right) = (view.digest()?, expected.digest()?);
        if digest != right {
            let unlike = digest.models.iter().zip(&right.models).filter(|(found, right)| found != right);
            let unlike: Vec<_> = unlike.map(|(found, _)| found.model.name()).collect();
            return Ok(Some(format!("digest {digest} instead of {right}: {unlike:?}")));
        }
        let (answers, right) = (self.answers(view)?, self.answers(expected)?);
        let unlike = answers.iter().zip(&right).find(|(found, right)| found != right);
        Ok(unlike.map(|(found, right)| format!("{found} instead of {right}")))
    }

    /// Every answer as text, in an order that depends on the questions and the names of live repositories only.
    fn answers(&self, view: &View) -> Result<Vec<String>> {
        let mut said = Answers::default();
        said.note("parked", view.parked()?);
        for pack in &self.packs {
            said.note(format!("pack {pack}"), view.storage_uri(*pack)?);
        }
        for hash in &self.tokens {
            said.note(format!("token {hash}"), view.token(*hash)?);
        }
        let rows = view.repos(None, usize::MAX)?;
        said.note("repositories", &rows);
        for (owner, slug) in &self.names {
            said.note(format!("{owner}/{slug}"), view.repo_by_name(owner, slug)?);
        }
        for row in rows.iter().filter(|row| view.parked().is_ok_and(|parked| !parked.contains_key(&row.record.repo))) {
            self.of_repo(view, row.scope(), &mut said)?;
        }
        Ok(said.0)
    }

    fn of_repo(&self, view: &View, scope: RepoScope, said: &mut Answers) -> Result<()> {
        said.note("branches", view.refs(scope)?);
        for name in &self.branches {
            said.note(name, view.reference(scope, name)?);
        }
        said.note("tags", view.tags(scope)?);
        said.note("releases", view.releases(scope)?);
        for tag in &self.releases {
            said.note(tag, view.release(scope, tag)?);
        }
        for kind in [Kind::Blob, Kind::Snapshot, Kind::Commit] {
            let ids: Vec<ObjectId> = self.objects.iter().filter(|(of, _)| *of == kind).map(|(_, id)| *id).collect();
            said.note(format!("missing {kind}"), view.missing(scope, kind, &ids)?);
            for id in ids {
                let found = (view.proof(scope, kind, id)?, view.locate(scope, kind, id)?);
                said.note(format!("{kind} {id}"), found);
            }
        }
        for (kind, id) in &self.objects {
            match kind {
                Kind::Blob => {}
                Kind::Snapshot => said.note(format!("snapshot {id}"), view.snapshot(scope, *id)?),
                Kind::Commit => {
                    let mut adds = Vec::new();
                    view.commit_adds(scope, *id, &mut adds)?;
                    said.note(format!("commit {id}"), (view.commit(scope, *id)?, adds));
                }
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Answers(Vec<String>);

impl Answers {
    fn note(&mut self, question: impl AsRef<str>, answer: impl Debug) {
        self.0.push(format!("{}: {answer:?}", question.as_ref()));
    }
}
