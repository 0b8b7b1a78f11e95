//! `reprise push`

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
    client::{Repository, address::Address, fetch::Fetch, http::Remote, pull, push},
};

/// Push a branch to a hub, of any size
#[derive(Args, Debug)]
#[command(after_help = token_help!("Sends what the hub lacks of the branch and moves the branch there, at once or not at all. Nothing of
the repository changes but the tracking ref of a remote with this URL. An interrupted push can be
repeated: what was sent is not sent again. A hub's bucket is spoken to only at the endpoint that is
named here: no hub chooses which service of this machine is asked.

Example:
  MUSE_TOKEN=$(reprise token create --owner me --secret-only) \\
    reprise push . http://127.0.0.1:10003/me/first main
"))]
pub struct Push {
    /// The directory that holds .muse
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The repository
    #[arg(value_name = "URL")]
    url: Address,
    /// The branch; the checked-out one if absent
    #[arg(value_name = "BRANCH")]
    branch: Option<String>,
    /// Move the branch even if commits are given up by it
    #[arg(long)]
    force: bool,
    /// Upload to the hub's bucket itself if the hub gives addresses at this endpoint, which is on this machine
    #[arg(long, env = "REPRISE_BUCKET_ENDPOINT", value_name = "URL", value_parser = Address::of_bucket)]
    bucket_endpoint: Option<Address>,
    #[command(flatten)]
    credentials: Credentials,
}

impl Push {
    /// Does it.
    pub async fn run(self, environment: &Environment, output: &Output) -> Result<(), Failure> {
        let repository = Repository::open(&self.dir)?;
        let branch = self.branch.map_or_else(|| pull::checked_out(&repository), Ok)?;
        let token = self.credentials.token(environment, &self.url)?;
        let pushed = attend(output, async |attended| {
            let remote = Remote::new(self.url.clone(), token, attended.stop.clone())?;
            let remote = remote.with_bucket(self.bucket_endpoint);
            let fetch = Fetch { repository, remote, counter: attended.counter, stop: attended.stop };
            push::push(&fetch, &branch, self.force).await
        });
        let pushed = pushed.await?;
        let value = json!({
            "branch": branch,
            "head": pushed.head.to_string(),
            "commits": pushed.commits,
            "snapshots": pushed.snapshots,
            "blobs": pushed.blobs,
            "message": pushed.message,
        });
        output.value(&value, |value| {
            let cell = |name: &str| plain(&value[name]);
            format!(
                "pushed {} at {}: {} commits, {} blobs ({})",
                cell("branch"),
                cell("head"),
                cell("commits"),
                cell("blobs"),
                cell("message")
            )
        })
    }
}
