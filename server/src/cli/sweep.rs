//! `reprise sweep`

use clap::Args;
use serde_json::Value;

use crate::cli::{
    client::Client,
    failure::Failure,
    output::{Output, plain},
    verify,
};

/// Delete what lies in the store and no event names
#[derive(Args, Debug)]
#[command(
    after_help = "Packs that a crash left between storing and the event, or that a refused push left; in a bucket also slots below the sealed
segments and uploads that were never ended. First an event says that a sweep began: pushes whose packs were stored before it pack
again. Packs are retired by an event before they are deleted. Nothing that the log names is touched.

After a restore that lost the end of a log, the packs of what was lost are named by nothing either: they are the last trace of it,
and a sweep deletes them."
)]
pub struct Sweep {
    /// Only say what would be deleted
    #[arg(long)]
    dry_run: bool,
}

impl Sweep {
    /// Does it.
    pub async fn run(self, client: &Client, output: &Output) -> Result<(), Failure> {
        let path = format!("/sweep?dry_run={}", self.dry_run);
        let report = verify::walk(client, &path, output.progress("sweeping")).await?;
        output.value(&report, text)
    }
}

fn text(report: &Value) -> String {
    let line = |one: &Value| {
        let named = ["what", "key", "bytes", "why"].map(|name| plain(&one["swept"][name]));
        named.join(" ")
    };
    let mut lines: Vec<String> = report["found"].as_array().into_iter().flatten().map(line).collect();
    let verb = if report["dry_run"].as_bool() == Some(true) { "would be deleted" } else { "deleted" };
    let cell = |name: &str| plain(&report[name]);
    lines.push(format!(
        "{} things {verb}, {} bytes; the log names {} packs",
        cell("swept"),
        cell("bytes"),
        cell("packs_named")
    ));
    lines.join("\n")
}
