//! The command line. Every command but `serve`, `doctor` and those of our own client is a client of the admin API: of the server that
//! holds the directory, or of the same routes in this process when none does. There is one path, so both answer the same.
//! The commands of our own client ([`crate::client`]) know no data directory: they work on a user's repository.
//!
//! Exit codes: 0 ok; 1 the thing asked about is not well; 2 usage; 3 could not do it.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

pub mod adopt;
pub mod attended;
pub mod bucket;
pub mod client;
pub mod clone;
pub mod credentials;
pub mod digest;
pub mod doctor;
pub mod failure;
pub mod from_packs;
pub mod locate;
pub mod log;
pub mod output;
pub mod projection;
pub mod pull;
pub mod push;
pub mod rebuild;
pub mod repo;
pub mod restore;
pub mod scrub;
pub mod serve;
pub mod server_file;
pub mod status;
pub mod sweep;
pub mod token;
pub mod verify;
pub mod verify_clone;

use client::{Client, Need};
use credentials::Environment;
use failure::Failure;
use output::Output;

use crate::{shutdown, telemetry};

/// A hub for muse repositories whose every index can be deleted and folded again from its log.
#[derive(Parser, Debug)]
#[command(name = "reprise", version, after_help = EXAMPLES)]
pub struct Arguments {
    /// The data directory
    #[arg(long, global = true, default_value = "./reprise-data", value_name = "DIR")]
    data: PathBuf,
    /// One JSON value on stdout, or one per line for streams
    #[arg(long, global = true)]
    json: bool,
    /// What to log to stderr, for example `debug` or `reprise_server=trace`
    #[arg(long, global = true, env = "RUST_LOG", value_name = "FILTER", value_parser = telemetry::filter)]
    log_filter: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Serve repositories over HTTP
    Serve(serve::Serve),
    /// Create, list, show, change and delete repositories
    #[command(subcommand)]
    Repo(repo::Repo),
    /// Issue, list and revoke tokens
    #[command(subcommand)]
    Token(token::Token),
    /// How the log and its projections are
    Status(status::Status),
    /// Print the events of the log
    Log(log::Log),
    /// Which event proves an object, in which pack it is, at which bytes
    Locate(locate::Locate),
    /// Fold all projections again from the log, beside the live ones
    Rebuild(rebuild::Rebuild),
    /// Print the fingerprints of the projections
    Digest(digest::Digest),
    /// Check the log and every pack that it names
    Verify(verify::Verify),
    /// Read all that rests in the log, the store and the bucket, at a pace; heal what can be
    Scrub(scrub::ScrubCommand),
    /// Delete what lies in the store and no event names
    Sweep(sweep::Sweep),
    /// Say what is damaged in a directory that no server has open; mend it with --repair
    Doctor(doctor::DoctorCommand),
    /// Bring back a hub from its bucket alone, or from its packs alone
    Restore(restore::Restore),
    /// Make a commit that a repository has into a branch
    Adopt(adopt::Adopt),
    /// Make a local copy of a repository on a hub
    Clone(clone::Clone),
    /// Fetch what is new into a local copy
    Pull(pull::Pull),
    /// Push a branch to a hub
    Push(push::Push),
    /// Check a muse repository on this machine
    VerifyClone(verify_clone::VerifyClone),
    /// Look into projections
    #[command(subcommand)]
    Projection(projection::Projection),
}

impl Arguments {
    /// What to log: a server says more than a command.
    pub fn log_filter(&self) -> String {
        let plain = if matches!(self.command, Command::Serve(_)) { "info,fjall=warn,lsm_tree=warn" } else { "error" };
        self.log_filter.clone().unwrap_or_else(|| plain.to_owned())
    }
}

/// Runs one command to its end.
pub fn run(arguments: Arguments, environment: Environment) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_keep_alive(std::time::Duration::from_secs(2))
        .build();
    let output = Output::new(arguments.json);
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(Box::pin(dispatch(arguments, environment, &output)));
            // Requests were waited for and the directory is closed: what still runs answers nobody.
            runtime.shutdown_timeout(JOBS_TIME_MAX);
            result
        }
        Err(error) => Err(Failure::CouldNot(format!("starting the runtime: {error}"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output.failure(&failure),
    }
}

async fn dispatch(arguments: Arguments, environment: Environment, output: &Output) -> Result<(), Failure> {
    let Arguments { data, command, .. } = arguments;
    let command = match command {
        Command::Serve(serve) => return serve.run(data, output).await,
        Command::Doctor(doctor) => return doctor.run(data, output).await,
        Command::Restore(restore) => return restore.run(data, output).await,
        Command::VerifyClone(verify) => return verify.run(output).await,
        Command::Clone(clone) => return clone.run(&environment, output).await,
        Command::Pull(pull) => return pull.run(&environment, output).await,
        Command::Push(push) => return push.run(&environment, output).await,
        command => command,
    };
    let client = Client::open(&data, command.need(), output).await?;
    let stop = shutdown::requested().map_err(|error| Failure::CouldNot(format!("signals: {error}")))?;
    let result = tokio::select! {
        result = command.run(&client, output) => result,
        () = stop => Err(Failure::CouldNot("interrupted".to_owned())),
    };
    let closed = client.close().await;
    result.and(closed)
}

impl Command {
    fn need(&self) -> Need {
        match self {
            Command::Repo(repo) if repo.creates() => Need::MayCreate,
            Command::Token(token) if token.creates() => Need::MayCreate,
            _ => Need::Existing,
        }
    }

    async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        match self {
            Command::Serve(_) | Command::Doctor(_) | Command::Restore(_) => Ok(()),
            Command::Clone(_) | Command::Pull(_) | Command::Push(_) | Command::VerifyClone(_) => Ok(()),
            Command::Adopt(adopt) => adopt.run(client, output).await,
            Command::Repo(repo) => repo.run(client, output).await,
            Command::Token(token) => token.run(client, output).await,
            Command::Status(status) => status.run(client, output).await,
            Command::Log(log) => log.run(client, output).await,
            Command::Locate(locate) => locate.run(client, output).await,
            Command::Rebuild(rebuild) => rebuild.run(client, output).await,
            Command::Digest(digest) => digest.run(client, output).await,
            Command::Verify(verify) => verify.run(client, output).await,
            Command::Scrub(scrub) => scrub.run(client, output).await,
            Command::Sweep(sweep) => sweep.run(client, output).await,
            Command::Projection(projection) => projection.run(client, output).await,
        }
    }
}

const WORKERS: usize = 2;
/// How long jobs that nobody waits for may keep the process from ending.
const JOBS_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(5);
/// Heavy jobs (`limits.blocking_jobs_max`) and the short reads beside them.
const BLOCKING_THREADS_MAX: usize = 96;
const EXAMPLES: &str = "Examples:
  reprise serve                                     start here; prints what to do next
  reprise repo create alice/etude --private
  reprise token create --owner alice --scope write --expires 30d
  reprise verify --deep                             read and check every stored byte
  reprise scrub --rate 20                           the same at 20 MB/s, and heal; goes on where it was stopped
  reprise doctor                                    say what is damaged and what can be done, with no server running
  reprise rebuild                                   fold every index again from the log
  reprise log --follow --json | jq .kind            watch what happens
  reprise clone http://127.0.0.1:10003/alice/etude  a copy of any size, verified; pull and push go with it

Commands work the same whether or not a server is running on the directory.
Exit codes: 0 ok, 1 the thing asked about is not well, 2 usage, 3 could not do it.";
