//! The binary `reprise`: arguments and environment in, exit code out. The only place that reads either.

use std::process::ExitCode;

use clap::Parser;
use reprise_server::{cli, telemetry};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    telemetry::start_tracing(&arguments.log_filter());
    cli::run(arguments)
}
