//! Where a scrub is, kept in the data directory: whatever ends it, the next one goes on from there.
//!
//! Invariants: a thing is behind the cursor only after it was dealt with; the file is replaced, never written over; one that cannot
//! be read, or of another log, is none. It is a convenience: without it a scrub begins anew.

use std::time::Duration;

use reprise_engine::disk;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Found;
use crate::hub::{Hub, HubError};

/// What is read, in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(super) enum Stage {
    /// Segments in the bucket.
    Archived,
    /// Packs.
    Packs,
    /// Local copies.
    Copies,
}

/// A place in a scrub, and what was found up to there.
#[derive(Serialize, Deserialize)]
pub(super) struct Cursor {
    log: String,
    /// When it began, milliseconds since 1970: names the place for what it replaces.
    pub(super) began_ms: u64,
    /// The last thing that was dealt with.
    after: Option<(Stage, String)>,
    /// What was met.
    pub(super) found: Found,
    #[serde(skip)]
    saved: Option<Instant>,
}

impl Stage {
    /// For people.
    pub(super) fn what(self) -> &'static str {
        match self {
            Stage::Archived => "the log in the bucket",
            Stage::Packs => "packs",
            Stage::Copies => "local copies",
        }
    }
}

impl Cursor {
    /// The one that the last scrub left, or the beginning.
    pub(super) fn begin(hub: &Hub, anew: bool) -> Result<Cursor, HubError> {
        let log = hub.engine.log().to_string();
        let left = if anew { None } else { disk::read_file(&**hub.engine.disk(), FILE, BYTES_MAX)? };
        let left = left.and_then(|bytes| serde_json::from_slice::<Cursor>(&bytes).ok());
        let fresh =
            || Cursor { log: log.clone(), began_ms: hub.now_ms(), after: None, found: Found::default(), saved: None };
        Ok(left.filter(|left| left.log == log).unwrap_or_else(fresh))
    }

    /// Whether a thing lies behind it.
    pub(super) fn is_past(&self, stage: Stage, name: &str) -> bool {
        self.after.as_ref().is_some_and(|(last, after)| (stage, name) <= (*last, after.as_str()))
    }

    /// A thing is dealt with. Saved now and then.
    pub(super) fn move_to(&mut self, hub: &Hub, stage: Stage, name: &str, found: Found) -> Result<(), HubError> {
        self.after = Some((stage, name.to_owned()));
        match self.saved.is_some_and(|saved| saved.elapsed() < SAVE_EVERY) {
            true => Ok(()),
            false => self.save(hub, found),
        }
    }

    /// Writes it.
    pub(super) fn save(&mut self, hub: &Hub, found: Found) -> Result<(), HubError> {
        (self.saved, self.found) = (Some(Instant::now()), found);
        let text = serde_json::to_vec(self).map_err(|error| HubError::Internal(error.to_string()))?;
        Ok(disk::replace_file(&**hub.engine.disk(), FILE, &text)?)
    }

    /// All is done: the next scrub begins anew.
    pub(super) fn end(&self, hub: &Hub) -> Result<(), HubError> {
        match hub.engine.disk().remove(FILE) {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }
}

const FILE: &str = "scrub.json";
const BYTES_MAX: u64 = 64 << 10;
const SAVE_EVERY: Duration = Duration::from_secs(1);
