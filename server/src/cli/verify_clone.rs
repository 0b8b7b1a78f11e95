//! `reprise verify-clone`

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::{
    cli::{
        attended::{Attended, attend_blocking},
        failure::Failure,
        output::Output,
    },
    client::verify::{self, Damage, Report},
};

/// Check a muse repository on this machine: every id is derived again, every name followed
#[derive(Args, Debug)]
#[command(after_help = "Reads everything below DIR/.muse and changes nothing; needs no server and no data directory.
Checked are: the bytes of every object, the formulas of every snapshot and commit; that their
snapshots, parents and blobs are there; that branches and tracking refs name commits that are
there, and HEAD a branch. What no id covers (an author, a note) can only be checked for being JSON.
The empty file's blob may be missing: the stock client never stores a fetched one.
Exit code 1 when something is damaged; each damage is named by its file.

Example:
  reprise verify-clone etude && echo whole")]
pub struct VerifyClone {
    /// The directory that holds .muse
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

impl VerifyClone {
    /// Does it.
    pub async fn run(self, output: &Output) -> Result<(), Failure> {
        let dir = self.dir;
        let work = move |attended: &Attended| verify::verify(&dir, &attended.counter, &attended.stop);
        let report = attend_blocking(output, work).await?;
        output.value(&as_json(&report), |_| text(&report))?;
        match report.damaged {
            0 => Ok(()),
            damaged => Err(Failure::NotWell(format!("{damaged} damaged"))),
        }
    }
}

fn as_json(report: &Report) -> Value {
    let damage = |damage: &Damage| {
        json!({
            "file": damage.file,
            "kind": damage.object.map(|(kind, _)| kind.name()),
            "object": damage.object.map(|(_, id)| id.to_string()),
            "detail": damage.detail,
        })
    };
    json!({
        "ok": report.damaged == 0,
        "blobs": report.blobs,
        "snapshots": report.snapshots,
        "commits": report.commits,
        "refs": report.refs,
        "damaged": report.damaged,
        "found": report.found.iter().map(damage).collect::<Vec<_>>(),
    })
}

fn text(report: &Report) -> String {
    let mut lines: Vec<String> =
        report.found.iter().map(|damage| format!("damaged: {}: {}", damage.file, damage.detail)).collect();
    let unlisted = report.damaged - report.found.len() as u64;
    if unlisted > 0 {
        lines.push(format!("{unlisted} more"));
    }
    lines.push(format!(
        "{} blobs, {} snapshots, {} commits, {} refs checked: {} damaged",
        report.blobs, report.snapshots, report.commits, report.refs, report.damaged
    ));
    lines.join("\n")
}
