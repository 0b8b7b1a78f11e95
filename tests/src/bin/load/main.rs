//! The load script: prints the figures of tests/README.md, each beside a physical limit measured in the same run.
//!
//! `cargo build --release -p reprise-server -p reprise-tests && target/release/load all`. Works on directories of its own
//! under `--dir` (default: the system's temporary directory) and removes them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    reason = "a measuring tool"
)]

use clap::{Parser, Subcommand};

mod append;
mod bodies;
mod exchange;
mod far;
mod fetch;
mod figures;
mod fleet;
mod idle;
mod incremental;
mod machine;
mod overload;
mod push_objects;
mod rebuild;
mod refs;
mod reopen;

/// As in the server, whose engine `append` drives in this process.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures a server on this machine.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// 20,000 random 4 KiB objects in chunks of 400 over 4 connections
    PushObjects,
    /// refs, filter-objects, push/objects with 2 objects, push with 1 commit
    Incremental,
    /// 60 MB in 14,000 objects, and the first byte at 100,000 objects
    Fetch,
    /// 32 clients asking for refs
    Refs,
    /// One small event at a time, 16 clients, 256 in flight; against fdatasync
    Append,
    /// All projections from a log of 50,000 and of 1,000,000 objects
    Rebuild,
    /// Open after kill -9 with a long log
    Reopen {
        /// Size of the log, MB
        #[arg(long, default_value_t = 2_000)]
        megabytes: u64,
    },
    /// Four push/objects bodies of 1 GiB at once
    Bodies,
    /// 200 clients pushing and fetching at once; the largest manifests, eight at a time
    Overload,
    /// Three servers on one bucket, 20 ms away: pushes alone and from 240 clients
    Fleet,
    /// A clone of 62 MB out of a bucket 20 ms away, beside plain ranged reads
    FarClone,
    /// A machine of 1,000,000 objects restored from a bucket 20 ms away
    Restore,
    /// What a server costs that nobody asks anything
    Idle,
    /// Everything, one after the other
    All,
}

fn main() {
    match Arguments::parse().what {
        What::PushObjects => push_objects::run(),
        What::Incremental => incremental::run(),
        What::Fetch => fetch::run(),
        What::Refs => refs::run(),
        What::Append => append::run(),
        What::Rebuild => rebuild::run(),
        What::Reopen { megabytes } => reopen::run(megabytes),
        What::Bodies => bodies::run(),
        What::Overload => overload::run(),
        What::Fleet => fleet::run(),
        What::FarClone => far::clone(),
        What::Restore => far::restore(),
        What::Idle => idle::run(),
        What::All => {
            push_objects::run();
            incremental::run();
            fetch::run();
            refs::run();
            append::run();
            rebuild::run();
            reopen::run(2_000);
            bodies::run();
            overload::run();
            fleet::run();
            far::clone();
            far::restore();
            idle::run();
        }
    }
}
