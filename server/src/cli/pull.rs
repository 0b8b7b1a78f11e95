//! `reprise pull`

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::{
    cli::{
        attended::attend,
        credentials::{Credentials, Environment, token_help},
        failure::Failure,
        output::{Output, plain},
    },
    client::{
        Repository,
        fetch::Fetch,
        http::Remote,
        pull::{self, Moved},
    },
};

/// Fetch what is new and move the checked-out branch forward
#[derive(Args, Debug)]
#[command(after_help = token_help!("Fetches all branches into the tracking refs and moves the checked-out branch and its files forward. A
branch that has diverged is refused (`muse pull` merges), and so are files with local changes that
the new commits change too: nothing is touched then. Other local changes stay as they are.
An interrupted pull goes on when it is repeated.
"))]
pub struct Pull {
    /// The directory that holds .muse
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// From this remote instead of the branch's upstream
    #[arg(long, value_name = "NAME")]
    remote: Option<String>,
    #[command(flatten)]
    credentials: Credentials,
}

impl Pull {
    /// Does it.
    pub async fn run(self, environment: &Environment, output: &Output) -> Result<(), Failure> {
        let repository = Repository::open(&self.dir)?;
        let (name, url) = pull::upstream(&repository, self.remote.as_deref())?;
        let address = url.parse().map_err(Failure::CouldNot)?;
        let token = self.credentials.token(environment, &address)?;
        let pulled = attend(output, async |attended| {
            let remote = Remote::new(address, token, attended.stop.clone())?;
            let fetch = Fetch { repository, remote, counter: attended.counter, stop: attended.stop };
            pull::pull(&fetch, &name).await
        });
        let pulled = pulled.await?;
        let (moved, from) = match pulled.moved {
            Moved::Same => ("same", None),
            Moved::Ahead => ("ahead", None),
            Moved::Forward(from) => ("forward", from),
        };
        let value = json!({
            "branch": pulled.branch,
            "remote": name,
            "moved": moved,
            "from": from.map(|from| from.to_string()),
            "head": pulled.head.to_string(),
            "commits": pulled.settled.commits,
            "snapshots": pulled.settled.snapshots,
            "blobs": pulled.settled.blobs,
        });
        output.value(&value, |value| {
            let cell = |name: &str| plain(&value[name]);
            let what = match pulled.moved {
                Moved::Same => "is up to date at",
                Moved::Ahead => "is ahead of the remote's at",
                Moved::Forward(_) => "is now at",
            };
            format!(
                "{} commits, {} blobs; branch {} {what} {}",
                cell("commits"),
                cell("blobs"),
                cell("branch"),
                cell("head")
            )
        })
    }
}
