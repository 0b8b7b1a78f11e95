//! `reprise serve`: open, listen, serve, and at the end leave everything clean.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use reprise_engine::{ErrorKind, event::Visibility};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    cli::{bucket::BucketArguments, failure::Failure, output::Output, server_file::ServerFile},
    config::{self, BucketForClients, LimitChange},
    http,
    hub::{BucketReach, Hub, Limits, archive, bucket::BucketPlace, fresh, lifecycle::Directory, mpack::sweep, scrub},
    shutdown,
};

/// Serve repositories over HTTP
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  reprise serve
  reprise serve --data /srv/reprise --listen 0.0.0.0:10003
  reprise serve --create-on-push private            repositories appear with their owner's first push
  reprise serve --bucket s3://hub/main              packs and the sealed log go to the bucket too
  reprise serve --log bucket --bucket s3://hub/main one of any number of servers of one log
  reprise serve --limit fetches_max=32 --limit requests_per_second=50")]
pub struct Serve {
    /// Where to listen; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:10003", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Create unknown repositories on their owner's first push
    #[arg(long, value_name = "public|private", value_parser = config::visibility)]
    create_on_push: Option<Visibility>,
    /// Give the stock client one-time addresses below URL, which is this server's for clients, for blobs over 64 KiB
    #[arg(long, value_name = "URL", value_parser = config::server_url)]
    presign_uploads: Option<String>,
    #[command(flatten)]
    bucket: BucketArguments,
    /// Where clients reach the bucket, if not where this server does: packs, and blobs over 64 KiB of the stock client, go there
    /// and come from there without passing through the server. `no`: clients do not reach it
    #[arg(long, value_name = "URL|no", value_parser = config::bucket_for_clients)]
    bucket_for_clients: Option<BucketForClients>,
    /// Change a limit; may be repeated
    #[arg(long = "limit", value_name = "NAME=VALUE")]
    limits: Vec<LimitChange>,
}

impl Serve {
    /// Serves until SIGINT or SIGTERM.
    pub async fn run(self, data: PathBuf, output: &Output) -> Result<(), Failure> {
        let stop = shutdown::requested().map_err(|error| Failure::CouldNot(format!("signals: {error}")))?;
        let failed = |error| Failure::CouldNot(format!("listening on {}: {error}", self.listen));
        let listener = TcpListener::bind(self.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (is_new, bucket) = (!Hub::exists(&data), self.bucket.place()?);
        let has_bucket = bucket.is_some() || BucketPlace::noted(&data)?.is_some();
        let reach = self.bucket_reach(has_bucket)?;
        let directory = Directory {
            data: data.clone(),
            limits: self.limits()?,
            create_on_push: self.create_on_push,
            holder: format!("reprise serve on {address}, process {}", std::process::id()),
            bucket,
        };
        let hub = open(directory).await?;
        let hub = hub.with_bucket_reach(reach);
        let hub = Arc::new(match self.presign_uploads.clone() {
            Some(url) => hub.with_presigned_uploads(url),
            None => hub,
        });
        let told = ServerFile::write(&data, reachable(address), &hub.operator)
            .map_err(|error| Failure::CouldNot(format!("writing server.json: {error}")))?;
        self.greet(output, address, &data, is_new)?;
        let scrubbed = Arc::clone(&hub);
        let scrub = tokio::task::spawn_blocking(move || scrub::log(&scrubbed));
        let archived = Arc::clone(&hub);
        let archive = tokio::task::spawn_blocking(move || {
            if archived.archiving {
                archive::run(&archived);
            }
        });
        tokio::spawn(fresh::follow(Arc::clone(&hub)));
        tokio::spawn(sweep::run(Arc::clone(&hub)));
        http::serve::run(listener, Arc::clone(&hub), stop).await;
        // No command may find us from here on; the lock tells it to wait.
        drop(told);
        end([archive, scrub], move || hub.close()).await
    }

    /// How clients reach the bucket, if they do. What would have no effect is refused.
    fn bucket_reach(&self, has_bucket: bool) -> Result<Option<BucketReach>, Failure> {
        let refused = |text: &str| Err(Failure::CouldNot(text.to_owned()));
        let reach = match self.bucket_for_clients.clone().unwrap_or_default() {
            BucketForClients::At(_) if !has_bucket => {
                return refused("--bucket-for-clients: there is no bucket: --bucket s3://NAME/PREFIX");
            }
            BucketForClients::At(url) => Some(BucketReach { endpoint: Some(url) }),
            BucketForClients::Same => has_bucket.then(BucketReach::default),
            BucketForClients::No => None,
        };
        match reach.is_some() && self.presign_uploads.is_some() {
            true => refused(
                "--presign-uploads: clients send uploads to the bucket; with --bucket-for-clients no they come here",
            ),
            false => Ok(reach),
        }
    }

    fn limits(&self) -> Result<Limits, Failure> {
        let mut limits = Limits::default();
        for change in &self.limits {
            change.apply(&mut limits).map_err(Failure::CouldNot)?;
        }
        Ok(limits)
    }

    fn greet(&self, output: &Output, address: SocketAddr, data: &std::path::Path, is_new: bool) -> Result<(), Failure> {
        let url = format!("http://{address}");
        let value = json!({"listening": url, "data": data.display().to_string(), "pid": std::process::id()});
        output.value(&value, |_| format!("listening on {url}"))?;
        if is_new && !output.is_json() {
            output.line(&first_steps(&url, data, self.create_on_push.is_some()))?;
        }
        Ok(())
    }
}

/// Waits for the reading of the log, then closes, whatever became of it: without its mark and its anchor the log would be one that
/// crashed.
async fn end(
    beside: [JoinHandle<()>; 2],
    close: impl FnOnce() -> reprise_engine::Result<()> + Send + 'static,
) -> Result<(), Failure> {
    let ended = futures_util::future::join_all(beside).await;
    let closed = tokio::task::spawn_blocking(close).await;
    closed.map_err(|error| Failure::CouldNot(format!("closing: {error}")))??;
    let failed = ended.into_iter().find_map(std::result::Result::err);
    failed.map_or(Ok(()), |error| Err(Failure::CouldNot(format!("reading or archiving the log: {error}"))))
}

/// Opens the directory; a command that holds it for a moment is waited for.
async fn open(directory: Directory) -> Result<Hub, Failure> {
    let mut tries = 1;
    loop {
        let attempt = directory.clone();
        let opened = tokio::task::spawn_blocking(move || Hub::open(attempt)).await;
        match opened.map_err(|error| Failure::CouldNot(format!("opening: {error}")))? {
            Err(error) if error.kind() == ErrorKind::Conflict && tries < HELD_TRIES => tries += 1,
            opened => return Ok(opened?),
        }
        tokio::time::sleep(HELD_PAUSE).await;
    }
}

/// What takes a newcomer from nothing to a first push and clone.
fn first_steps(url: &str, data: &std::path::Path, creates_on_push: bool) -> String {
    let data = match data.to_string_lossy() {
        text if text == "./reprise-data" => String::new(),
        text => format!(" --data {text}"),
    };
    let create = if creates_on_push { String::new() } else { format!("reprise{data} repo create me/first && ") };
    format!(
        "\nFrom nothing to a first push and clone, in a muse repository of yours:\n\
         \x20 {create}MUSE_TOKEN=$(reprise{data} token create --owner me --secret-only) muse auth login --hub {url} --name me\n\
         \x20 muse remote add origin {url}/me/first && muse push origin main\n\
         \x20 muse clone {url}/me/first"
    )
}

/// An address that this machine reaches the listener at.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

const HELD_TRIES: usize = 10;
const HELD_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use super::end;

    #[tokio::test]
    async fn a_panic_of_the_reading_of_the_log_does_not_leave_it_unclosed() {
        let closed = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&closed);
        #[allow(clippy::panic, reason = "it is what is tested")]
        let scrub = tokio::task::spawn_blocking(|| panic!("a planted panic"));
        let ended = end([scrub, tokio::spawn(async {})], move || {
            seen.store(true, Ordering::SeqCst);
            Ok(())
        });
        assert!(ended.await.is_err(), "the panic is told");
        assert!(closed.load(Ordering::SeqCst));
    }
}
