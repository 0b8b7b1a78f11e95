//! `reprise restore`: an empty machine gets everything from the bucket, and says what that was and what (if anything) is lost;
//! with `--from-packs` ([`super::from_packs`]) it gets what packs alone still say.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use clap::Args;
use hyper::Method;
use reprise_engine::store::{ObjectStore, StoreKey};
use serde_json::{Value, json};

use crate::{
    cli::{
        bucket::BucketArguments,
        client::{Client, Need},
        failure::Failure,
        from_packs::FromPacks,
        output::{Output, plain},
    },
    hub::bucket::BucketPlace,
};

/// Bring back a hub from its bucket alone, into an empty directory
#[derive(Args, Debug)]
#[command(after_help = "The directory may be one in which a restore was interrupted: it goes on.

When the log is lost and only packs are left, --from-packs makes a new log of what they hold: objects and commits, into private
repositories of the owner 'quarantine', one for each repository that packs name. Branches, names, owners, visibility, tokens and
releases are in no pack; `reprise adopt` makes commits into branches again, `reprise repo update` gives names. Every byte of every
pack is read first; of a damaged one only what proves itself goes on. What the store still holds of the old log is kept below
aside/, once --replace-log names that log.

Examples:
  reprise restore --data /srv/reprise --bucket s3://hub/main
  reprise restore --data /srv/reprise --bucket s3://hub/main --from-packs
  reprise restore --data /srv/new --from-packs --packs /srv/old/objects
  reprise restore --data /srv/reprise --from-packs             the packs are in /srv/reprise/objects already

What a local log had not archived is lost; its packs may be in the bucket still, until `reprise sweep` deletes them.

Exit code 1 when packs that the log names are not in the bucket, or packs are damaged; they are listed.")]
pub struct Restore {
    #[command(flatten)]
    bucket: BucketArguments,
    #[command(flatten)]
    from_packs: FromPacks,
}

impl Restore {
    /// Does it.
    pub async fn run(self, data: PathBuf, output: &Output) -> Result<(), Failure> {
        let began = Instant::now();
        let place = self.bucket.place()?;
        if self.from_packs.is_wanted() {
            return self.from_packs.run(data, place, output).await;
        }
        let place = place.ok_or_else(|| Failure::CouldNot("from where? --bucket s3://NAME/PREFIX".to_owned()))?;
        let (packs, brought) = bring(&data, place, output).await?;
        // The log of servers that share it comes with this opening.
        let client = Client::open(&data, Need::MayCreate, output).await?;
        let report = report(&client, &packs, brought).await;
        client.close().await?;
        let mut report = report?;
        report["seconds"] = json!((began.elapsed().as_secs_f64() * 10.0).round() / 10.0);
        output.value(&report, text)?;
        match report["missing_packs"].as_u64() {
            Some(0) => Ok(()),
            _ => Err(Failure::NotWell("packs that the log names are not in the bucket".to_owned())),
        }
    }
}

/// The log into the directory; which packs the bucket has, and how many bytes of log came.
async fn bring(data: &Path, place: BucketPlace, output: &Output) -> Result<(BTreeSet<StoreKey>, u64), Failure> {
    let mut progress = output.progress("restoring the log");
    let data = data.to_owned();
    let brought = tokio::task::spawn_blocking(move || {
        let mut bytes = 0;
        let store = place.restore(&data, &mut |segment| {
            bytes += segment.bytes;
            progress.at(bytes, bytes);
        })?;
        let store: Arc<dyn ObjectStore> = store;
        Ok((store.list("packs")?.into_iter().collect(), bytes))
    });
    let brought: reprise_engine::Result<_> =
        brought.await.map_err(|error| Failure::CouldNot(format!("restoring: {error}")))?;
    Ok(brought?)
}

/// What is there now, by the projections that were folded from the log.
async fn report(client: &Client, packs: &BTreeSet<StoreKey>, log_bytes: u64) -> Result<Value, Failure> {
    let status = client.call(Method::GET, "/status", None).await?;
    let digest = client.call(Method::GET, "/projections/digest", None).await?;
    let (mut named, mut missing) = (0_u64, Vec::new());
    client
        .stream(Method::GET, "/projections/dump/storage_uri", &mut |row| {
            named += 1;
            let pack = row["pack"].as_str().unwrap_or_default().to_owned();
            let there = pack.parse().is_ok_and(|pack| packs.contains(&StoreKey::pack(pack)));
            if !there && row["retired"].as_bool() != Some(true) {
                missing.push(pack);
            }
            Ok(())
        })
        .await?;
    let mut repositories = 0_u64;
    client
        .stream(Method::GET, "/projections/dump/repos", &mut |_| {
            repositories += 1;
            Ok(())
        })
        .await?;
    let rows = |name: &str| digest["projections"][name]["rows"].clone();
    Ok(json!({
        "archived": status["durable"],
        "log_bytes": log_bytes,
        "repositories": repositories,
        "objects": rows("object_refs"),
        "branches": rows("refs"),
        "packs": named,
        "missing_packs": missing.len(),
        "missing": missing.iter().take(MISSING_LISTED_MAX).collect::<Vec<_>>(),
        "digest": digest["digest"],
    }))
}

fn text(report: &Value) -> String {
    let lines = [
        ("events", plain(&report["archived"])),
        ("repositories", plain(&report["repositories"])),
        ("branches", plain(&report["branches"])),
        ("objects", plain(&report["objects"])),
        ("packs", plain(&report["packs"])),
        ("log bytes", plain(&report["log_bytes"])),
        ("seconds", plain(&report["seconds"])),
        ("digest", plain(&report["digest"])),
        ("missing packs", plain(&report["missing_packs"])),
    ];
    let mut text = lines.iter().map(|(name, value)| format!("{name:13} {value}")).collect::<Vec<_>>().join("\n");
    text.push_str(
        "\nWhat a local log had appended after the last event above, and not archived, is lost with its machine.",
    );
    for pack in report["missing"].as_array().into_iter().flatten() {
        text.push_str(&format!("\nmissing: {}", plain(pack)));
    }
    text
}

const MISSING_LISTED_MAX: usize = 1_000;
