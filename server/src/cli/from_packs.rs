//! `reprise restore --from-packs`: a new log from packs alone, and the words for what that is and is not.

use std::{path::PathBuf, time::Instant};

use clap::Args;
use serde_json::{Value, json};

use crate::{
    cli::{
        adopt, attended,
        failure::Failure,
        output::{Output, plain},
    },
    client::counter::{Stage, Unit},
    hub::{
        bucket::BucketPlace,
        lost_log::{self, Order, PacksAt},
    },
};

/// Where packs are, of a hub whose log is lost.
#[derive(Args, Debug)]
pub struct FromPacks {
    /// The log is lost: make a new one of what packs hold
    #[arg(long)]
    from_packs: bool,
    /// The packs are in this directory, the objects/ of a data directory; good ones are copied, nothing in it is changed
    #[arg(long, value_name = "DIR", requires = "from_packs")]
    packs: Option<PathBuf>,
    /// The old log is lost for good: set aside what the store still holds of it. Its id, as the refusal without this names it
    #[arg(long, value_name = "LOG", requires = "from_packs")]
    replace_log: Option<String>,
}

impl FromPacks {
    /// Whether this is asked for.
    pub fn is_wanted(&self) -> bool {
        self.from_packs
    }

    /// Does it.
    pub async fn run(self, data: PathBuf, bucket: Option<BucketPlace>, output: &Output) -> Result<(), Failure> {
        let began = Instant::now();
        let packs = match (self.packs, bucket) {
            (Some(_), Some(_)) => {
                let text = "are the packs in a bucket (--bucket, or REPRISE_BUCKET in the environment) or in a directory (--packs)? \
                            Give one";
                return Err(Failure::CouldNot(text.to_owned()));
            }
            (_, Some(bucket)) if bucket.shared => {
                let text =
                    "a new log begins in the data directory: leave --log out, and `serve --log bucket` afterwards";
                return Err(Failure::CouldNot(text.to_owned()));
            }
            (None, Some(bucket)) => PacksAt::Bucket(bucket),
            (Some(packs), None) => PacksAt::Elsewhere(packs),
            (None, None) => PacksAt::InPlace,
        };
        let holder = format!("reprise restore, process {}", std::process::id());
        let report = recovered(Order { data, packs, replace: self.replace_log, holder }, output).await?;
        let mut value = report.json();
        value["seconds"] = json!((began.elapsed().as_secs_f64() * 10.0).round() / 10.0);
        output.value(&value, text)?;
        match report.is_whole() {
            true => Ok(()),
            false => Err(Failure::NotWell("not everything that was found could be taken in".to_owned())),
        }
    }
}

/// Pack by pack.
async fn recovered(order: Order, output: &Output) -> Result<lost_log::Report, Failure> {
    attended::in_steps(output, "recovering", move |progress, goes_on| {
        lost_log::recover(&order, &mut |what, done, total| {
            progress.show(Stage { what, unit: Unit::Objects, done, total });
            goes_on()
        })
    })
    .await
}

fn text(report: &Value) -> String {
    let cell = |name: &str| plain(&report[name]);
    let mut lines = vec![format!(
        "new log {} over {}: {} of {} packs, {} commits, {} snapshots and {} blobs in {} repositories, {} s",
        cell("log"),
        cell("place"),
        cell("packs_in_log"),
        cell("packs"),
        cell("commits"),
        cell("snapshots"),
        cell("blobs"),
        list(report, "repositories").count(),
        cell("seconds"),
    )];
    if !report["replaced_log"].is_null() {
        let (old, aside) = (cell("replaced_log"), cell("set_aside"));
        lines.push(format!("log {old} was given up: its mark and {aside} pieces of it are kept below aside/{old}/"));
    }
    lines.extend(complaints(report));
    for repo in list(report, "repositories") {
        let cell = |name: &str| plain(&repo[name]);
        lines.push(format!(
            "\n{}: {} packs, {} commits; candidates for branches:",
            cell("name"),
            cell("packs"),
            cell("commits")
        ));
        lines.push(adopt::candidates(repo));
    }
    lines.push("\nNobody can know from packs:".to_owned());
    lines.extend(list(report, "unknown").map(|what| format!("  {}", plain(what))));
    lines.push(
        "Next: reprise adopt OWNER/SLUG COMMIT BRANCH, then reprise repo update OWNER/SLUG --rename …".to_owned(),
    );
    lines.join("\n")
}

fn complaints(report: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for pack in list(report, "damaged") {
        let cell = |name: &str| plain(&pack[name]);
        lines.push(format!("damaged: pack {} of repository {}: {}", cell("pack"), cell("repo_id"), cell("problem")));
        match pack["rescued"].as_str() {
            Some(rescued) => {
                lines.push(format!("  {} entries prove themselves and are in pack {rescued}", cell("proven")))
            }
            None => lines.push("  nothing of it proves itself".to_owned()),
        }
        lines.extend(list(pack, "lost").map(|lost| format!("  lost: {}", plain(lost))));
        if pack["complete"] == false {
            lines.push("  what else stood in it cannot be named".to_owned());
        }
    }
    lines.extend(list(report, "not_packs").map(|name| format!("not a pack: {}", plain(name))));
    for pack in list(report, "not_taken") {
        lines.push(format!("not taken in: pack {}: {}", plain(&pack["pack"]), plain(&pack["problem"])));
    }
    for one in list(report, "differing") {
        let cell = |name: &str| plain(&one[name]);
        let (kind, object) = (cell("kind"), cell("object"));
        lines.push(format!(
            "differs: {kind} {object} of repository {} stands in two packs; that of {} is not served",
            cell("repo_id"),
            cell("pack")
        ));
    }
    lines
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value[name].as_array().into_iter().flatten()
}
