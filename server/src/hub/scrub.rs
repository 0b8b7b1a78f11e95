//! Reading the log once, beside everything else, after a server has started.
//!
//! Opening reads headers and footers only, whatever the log's size, so damage inside an older segment is not seen then. Here
//! every group is read, checked against its checksums and the chain, and decoded. A reader that meets damage makes the log
//! read-only ([`reprise_engine::engine::Engine::read_only`]): that is told by `/health`. A segment that cannot be read now (no
//! descriptor, a disk that does not answer) is read again later. Never repairs anything.

use std::{thread, time::Duration};

use reprise_engine::{Result, engine::Group, id::Position};
use tokio::time::Instant;

use crate::hub::Hub;

/// Reads the log to its end, or until damage, or until the server closes. Blocking.
pub fn log(hub: &Hub) {
    through(hub, &mut |pause| {
        let until = Instant::now() + pause;
        while !hub.is_closing() && Instant::now() < until {
            thread::sleep(CLOSING_SEEN_WITHIN);
        }
    });
}

/// The same; `pause` waits before what could not be read is tried again.
fn through(hub: &Hub, pause: &mut dyn FnMut(Duration)) {
    let mut left: Vec<Position> = hub.engine.segments().iter().map(|segment| segment.first).collect();
    let mut wait = PAUSE_FIRST;
    loop {
        let mut again = Vec::new();
        for first in left {
            match segment(hub, first, &mut |_| true) {
                Ok(()) => {}
                Err(error) if error.is_corrupt() => return,
                Err(error) => {
                    tracing::warn!(%error, "a segment of the log could not be read through: it is tried again");
                    again.push(first);
                }
            }
        }
        if again.is_empty() || hub.is_closing() {
            return;
        }
        pause(wait);
        left = again;
        wait = (wait * 2).min(PAUSE_MAX);
    }
}

/// Reads the groups of a segment, each checked, until `each` answers false or the server closes.
pub(crate) fn segment(hub: &Hub, first: Position, each: &mut dyn FnMut(&Group) -> bool) -> Result<()> {
    let mut reader = hub.engine.read_segment(first)?;
    while !hub.is_closing()
        && let Some(group) = reader.next_group()?
        && each(&group)
    {}
    Ok(())
}

const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// A shutdown waits for this thread.
const CLOSING_SEEN_WITHIN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]

    use reprise_engine::engine::ReadOnly;

    use super::*;
    use crate::hub::{Caller, Limits, lifecycle::Directory, repos::NewRepo};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_segment_that_cannot_be_read_now_is_read_later_and_its_damage_is_met_then() {
        let dir = tempfile::tempdir().unwrap();
        let (data, limits) = (dir.path().to_owned(), Limits::default());
        let directory = Directory { data, limits, create_on_push: None, holder: "a test".to_owned(), bucket: None };
        let hub = Hub::open(directory).unwrap();
        hub.create_repo(&Caller::Operator, NewRepo::named("alice", "etude")).await.unwrap();
        let segment = dir.path().join("log").join("seg-00000000000000000001.log");
        let mut bytes = std::fs::read(&segment).unwrap();
        let frame = bytes.iter().skip(4_096).position(|byte| *byte != 0).unwrap() + 4_096;
        bytes[frame + 100] ^= 1;
        std::fs::remove_file(&segment).unwrap();
        let mut pauses = Vec::new();
        through(&hub, &mut |pause| {
            pauses.push(pause);
            assert_eq!(hub.engine.read_only(), None, "what is not there now may come back");
            if pauses.len() == 2 {
                std::fs::write(&segment, &bytes).unwrap();
            }
        });
        assert_eq!(pauses, [PAUSE_FIRST, PAUSE_FIRST * 2]);
        assert!(matches!(hub.engine.read_only(), Some(ReadOnly::Damaged(_))));
    }
}
