//! The binary `reprise`: arguments and environment in, exit code out. The only place that reads either.

use std::{env, process::ExitCode};

use clap::Parser;
use reprise_server::{
    cli::{self, credentials::Environment},
    hub::Secret,
    telemetry,
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    telemetry::start_tracing(&arguments.log_filter());
    cli::run(arguments, environment())
}

/// What must not stand among the arguments, where other users of the machine would see it.
#[allow(clippy::disallowed_methods, reason = "this is the door to the environment")]
fn environment() -> Environment {
    let token = env::var("MUSE_TOKEN").ok().filter(|token| !token.is_empty());
    Environment { token: token.map(Secret::new), home: env::var_os("HOME").map(Into::into) }
}
