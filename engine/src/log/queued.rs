//! What waits for the writer, what it weighs, and how it is answered.
//!
//! Invariant: whoever waits is called back once.

use crate::{
    engine::{Outcome, Proposal, Reason},
    error::{Error, ErrorKind, Result},
    event::EventBody,
    id::Position,
};

/// Called once with what became of a proposal.
pub(crate) type Reply = Box<dyn FnOnce(Outcome) + Send>;
/// Called once with the end of the log, or with why it is not known.
pub(crate) type LookReply = Box<dyn FnOnce(Result<Position>) + Send>;

/// What waits for the writer.
pub(super) enum Queued {
    Proposal { proposal: Proposal, bytes: u64, reply: Reply },
    Look(LookReply),
}

/// Who is to be told what, once the writer was let go.
pub(super) enum Answer {
    Outcome(Reply, Outcome),
    Look(LookReply, Result<Position>),
}

/// Tells them. The writer must have been let go.
pub(super) fn answer(answers: Vec<Answer>) {
    for answer in answers {
        match answer {
            Answer::Outcome(reply, outcome) => reply(outcome),
            Answer::Look(reply, seen) => reply(seen),
        }
    }
}

/// Why the end of a bucket log is not known.
pub(super) fn refused_look(reason: &Reason) -> Error {
    let (kind, text) = match reason {
        Reason::Unavailable(why) => (ErrorKind::Unavailable, format!("the bucket was not reached: {why}")),
        Reason::ReadOnly(why) => (ErrorKind::Poisoned, why.clone()),
        Reason::Busy(after) => (ErrorKind::Busy(*after), "too many wait for the log".to_owned()),
        Reason::Full => (ErrorKind::Full, "no room for the local copy of the log".to_owned()),
        _ => (ErrorKind::Unavailable, "the engine is closed".to_owned()),
    };
    Error::new(kind, text)
}

/// What a proposal holds in memory, roughly.
pub(super) fn approximate_bytes(proposal: &Proposal) -> u64 {
    let of = |event: &EventBody| match event {
        EventBody::ObjectsReceived(objects) => {
            let adds: usize =
                objects.commits.iter().map(|commit| 512 + commit.message.len() + commit.adds.len() * 32).sum();
            objects.rows.len() * 144 + objects.snapshots.len() * 64 + adds
        }
        EventBody::RefsUpdated(refs) => refs.updates.len() * 160,
        EventBody::TagsSet(tags) => tags.tags.len() * 192,
        EventBody::TagsDeleted(tags) => tags.tags.len() * 64,
        EventBody::ReleasePublished(release) => release.record.len(),
        EventBody::RowsCondemned(rows) => rows.rows.len() * 40,
        EventBody::PacksRelocated(packs) => packs.packs.len() * 128,
        _ => 0,
    };
    let events: usize = proposal.events.iter().map(|event| 256 + of(event)).sum();
    (256 + proposal.actor.len() + events) as u64
}
