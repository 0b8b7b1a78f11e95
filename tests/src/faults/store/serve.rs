//! What the process does that opens a damaged index: it judges whether the index serves all of the log, and says what it saw.
//!
//! Invariants: what is right is folded from the log from nothing, in memory; the index must be right in the end, again after
//! more was appended, and again after a clean stop and a start; an answer that was wrong before that is told, never forgiven
//! here. Runs in a process of its own, which ends by itself.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use reprise_engine::engine::Engine;
use reprise_projections::{Projections, projections::build_at};
use serde::{Deserialize, Serialize};

use super::past::{PATIENCE, append, open_index, open_log};
use crate::{answers::Questions, faults::run::read_all, history::late};

/// What a process saw that held its promise.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Served {
    /// What the index said about its opening.
    pub reason: String,
    /// The first wrong answer, if there was one on the way.
    pub wrong: Option<String>,
    /// Reads that were refused on the way.
    pub refused: u64,
    /// The index believes that the log has lost something.
    pub possible_loss: bool,
}

/// Opens log and index of a data directory; an error says which promise is broken.
pub fn serve(data: &Path) -> Result<Served, String> {
    let engine = open_log(data, data.as_os_str().len() as u64);
    let mut served = Served::default();
    let index = open_index(&engine, data);
    becomes_right(&engine, &index, &mut served).map_err(|error| format!("after the opening: {error}"))?;
    served.reason = index.status().reason;
    append(&engine, late());
    becomes_right(&engine, &index, &mut served).map_err(|error| format!("after one more push: {error}"))?;
    index.shutdown().map_err(|error| format!("it cannot be shut down: {error}"))?;
    drop(index);
    let again = open_index(&engine, data);
    becomes_right(&engine, &again, &mut served).map_err(|error| format!("after a clean stop: {error}"))?;
    served.possible_loss = again.status().possible_loss;
    again.shutdown().map_err(|error| format!("it cannot be shut down again: {error}"))?;
    Ok(served)
}

/// Asks for everything that the log names until all of it is answered right.
fn becomes_right(engine: &Engine, index: &Projections, served: &mut Served) -> Result<(), String> {
    let end = engine.durable().position;
    if !index.wait_folded(end, PATIENCE) {
        return Err(format!("nothing is served: {:?}", index.status()));
    }
    let expected = build_at(engine, end).map_err(|error| error.to_string())?;
    let events = read_all(engine).map_err(|error| error.to_string())?;
    let questions = Questions::of(&events);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = questions.difference(&index.view(), &expected);
        match &answer {
            Ok(None) if index.status().state == "ready" => return Ok(()),
            Ok(None) => {}
            Ok(Some(wrong)) => drop(served.wrong.get_or_insert_with(|| wrong.clone())),
            Err(_) => served.refused += 1,
        }
        if Instant::now() >= deadline {
            return Err(format!("it does not become right: {answer:?}, {:?}", index.status()));
        }
        // Nothing comes behind the end of the log: this only lets the index work.
        index.wait_folded(end.next(), PAUSE);
    }
}

/// Bounds what this process may take, and how long: a damaged length must not take the machine's memory, a damaged pointer
/// not its time.
pub fn bound_this_process() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let limit = |bytes| Rlimit { current: Some(bytes), maximum: Some(bytes) };
    setrlimit(Resource::As, limit(MEMORY_BYTES_MAX)).expect("a limit of memory");
    setrlimit(Resource::Core, limit(0)).expect("no core dumps");
    thread::spawn(|| {
        thread::park_timeout(TIME_MAX);
        std::process::exit(HANGS);
    });
}

/// Exit code of a process that did not come to its end.
pub const HANGS: i32 = 3;
const TIME_MAX: Duration = Duration::from_secs(150);
const MEMORY_BYTES_MAX: u64 = 4 << 30;
const PAUSE: Duration = Duration::from_millis(2);
