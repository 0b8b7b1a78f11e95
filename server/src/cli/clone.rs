//! `reprise clone`

use std::path::PathBuf;

use clap::Args;
use reprise_engine::clock::{Clock, SystemClock};
use serde_json::json;

use crate::{
    cli::{
        attended::attend,
        credentials::{Credentials, Environment, token_help},
        failure::Failure,
        output::{Output, plain},
    },
    client::{Repository, address::Address, clone, fetch::Fetch, http::Remote},
};

/// Make a local copy of a repository on a hub, of any size
#[derive(Args, Debug)]
#[command(after_help = token_help!("Makes an ordinary muse repository that the stock client goes on with. Everything is verified before it
is written. The copy grows in a hidden directory beside DIR and gets its name when it is complete;
an interrupted clone goes on where it was when the same command is given again.

Example:
  reprise clone http://127.0.0.1:10003/me/first
"))]
pub struct Clone {
    /// The repository
    #[arg(value_name = "URL")]
    url: Address,
    /// Where to; the last part of the URL if absent
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Check out this branch instead of the repository's default
    #[arg(long, short, value_name = "BRANCH")]
    branch: Option<String>,
    #[command(flatten)]
    credentials: Credentials,
}

impl Clone {
    /// Does it.
    pub async fn run(self, environment: &Environment, output: &Output) -> Result<(), Failure> {
        let token = self.credentials.token(environment, &self.url)?;
        let dir = self.dir.unwrap_or_else(|| self.url.path.rsplit('/').next().unwrap_or_default().into());
        let growing = clone::growing(&dir)?;
        let cloned = attend(output, async |attended| {
            let remote = Remote::new(self.url.clone(), token, attended.stop.clone())?;
            let repository = Repository::at(&growing);
            let fetch = Fetch { repository, remote, counter: attended.counter, stop: attended.stop };
            clone::clone(&fetch, &dir, self.branch.as_deref(), now()).await
        });
        let cloned = cloned.await.map_err(|failure| match (&failure, growing.exists()) {
            (Failure::CouldNot(text), true) => Failure::CouldNot(format!(
                "{text} (what came is kept in {}: the same command goes on from there)",
                growing.display()
            )),
            _ => failure,
        })?;
        let value = json!({
            "dir": dir.display().to_string(),
            "branch": cloned.branch,
            "head": cloned.head.to_string(),
            "branches": cloned.branches,
            "domain": cloned.domain,
            "commits": cloned.settled.commits,
            "snapshots": cloned.settled.snapshots,
            "blobs": cloned.settled.blobs,
        });
        output.value(&value, |value| {
            let cell = |name: &str| plain(&value[name]);
            format!(
                "cloned into {}: {} commits, {} blobs, branch {} at {}",
                cell("dir"),
                cell("commits"),
                cell("blobs"),
                cell("branch"),
                cell("head")
            )
        })
    }
}

/// This moment as the stock client writes it.
fn now() -> String {
    let ms = i64::try_from(SystemClock.now_ms()).unwrap_or_default();
    let now = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    now.strftime("%Y-%m-%dT%H:%M:%S.%6f+00:00").to_string()
}
