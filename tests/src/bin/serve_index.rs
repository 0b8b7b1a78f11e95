//! Serves the log and the index of a data directory for a moment: one line of JSON about what was seen, or what is wrong.
//!
//! For the trials of `tests/faults_store.rs`, because a damaged index may kill the process that opens it.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what it prints is its result")]

use std::{path::Path, process::ExitCode};

use reprise_tests::faults::store::serve::{bound_this_process, serve};

fn main() -> ExitCode {
    let Some(data) = std::env::args_os().nth(1) else {
        eprintln!("usage: serve_index DATA");
        return ExitCode::from(2);
    };
    bound_this_process();
    match serve(Path::new(&data)).and_then(|served| serde_json::to_string(&served).map_err(|error| error.to_string())) {
        Ok(served) => println!("{served}"),
        Err(broken) => {
            eprintln!("{broken}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
