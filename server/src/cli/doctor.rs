//! `reprise doctor`: the one command that looks at a data directory without opening its log, and the only one that changes
//! files of a damaged log.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use reprise_engine::{
    Error,
    clock::{Clock, SystemClock, SystemRandom},
    disk::{self, Disk, real::RealDisk},
    doctor::{BeforeCut, Copies, Diagnosis, Doctor, Finding, Orders, Patient, Treatment},
    id::Position,
    store::{ObjectStore, files::StoreFiles},
};
use serde_json::{Value, json};

use crate::{
    cli::{attended, failure::Failure, output::Output},
    hub::{
        Hub,
        bucket::BucketPlace,
        lifecycle::{INDEX, OBJECTS},
    },
};

/// Say what is damaged in a data directory that no server has open, and what can be done; do it with --repair
#[derive(Args, Debug)]
#[command(
    after_help = "Reads every byte of the log and of every pack, and changes nothing. With --repair it does what it said can be
done: what can be made anew from intact bytes, what --from (or else the directory's bucket) has, and, only if you name the loss,
the cut of a log whose events cannot be read. Packs of a directory that has a bucket are read there, and nothing is written there. Whatever it replaces is kept first, under DIR/damaged/ (packs: DIR/objects/damaged/). Indexes need no
doctor: they are checked and folded again whenever a server starts.
Exit code 1 when something is damaged and stays so, 3 when it was stopped or could not go on.

Examples:
  reprise doctor                                          what is wrong?
  reprise doctor --repair --from /backup/reprise-data     take what is missing from a copy of the directory
  reprise doctor --repair --accept-loss-after 41          give up every event after the 41st"
)]
pub struct DoctorCommand {
    /// Do what can be done
    #[arg(long)]
    repair: bool,
    /// A copy of the data directory (or of its log/) to take intact bytes from, instead of the bucket; it is not changed
    #[arg(long, value_name = "DIR", requires = "repair")]
    from: Option<PathBuf>,
    /// Give up the events after this position, which must be the one that the diagnosis names
    #[arg(long, value_name = "POSITION", requires = "repair")]
    accept_loss_after: Option<u64>,
    /// Look at the log only
    #[arg(long)]
    skip_packs: bool,
}

impl DoctorCommand {
    /// Does it.
    pub async fn run(self, data: PathBuf, output: &Output) -> Result<(), Failure> {
        if !Hub::exists(&data) {
            let path = data.display();
            return Err(Failure::CouldNot(format!("there is no data directory at {path}")));
        }
        if let Some(from) = self.from.as_ref().filter(|from| !from.is_dir()) {
            return Err(Failure::CouldNot(format!("--from {}: there is no such directory", from.display())));
        }
        let examined = attended::in_steps(output, "examining", move |progress, goes_on| {
            self.work(&data, &mut |done, total| {
                progress.at(done, total);
                goes_on()
            })
        });
        let report = examined.await?;
        output.value(&report.json(), |_| report.text())?;
        match report.ended() {
            Some(error) => Err(Failure::CouldNot(format!("the treatment ended early: {error}"))),
            None if report.now().is_healthy() => Ok(()),
            None => Err(Failure::NotWell(format!("{} damaged", report.now().damaged()))),
        }
    }

    fn work(&self, data: &Path, go_on: &mut dyn FnMut(u64, u64) -> bool) -> Result<Report, Error> {
        let bucket = BucketPlace::noted(data)?.map(|place| place.at_rest(data)).transpose()?;
        let patient = patient(data, bucket.clone());
        let doctor = Doctor::admit(patient, &format!("reprise doctor, process {}", std::process::id()))?;
        let found = doctor.examine(!self.skip_packs, go_on)?;
        if !self.repair || found.is_healthy() {
            return Ok(Report { found, treatment: None });
        }
        let copies = |from: &PathBuf| Copies {
            disk: Arc::new(RealDisk::for_reading(from.clone())),
            pack_files: Arc::new(RealDisk::for_reading(from.join(OBJECTS))),
        };
        let stamp = stamp(SystemClock.now_ms());
        let orders = Orders {
            from: self.from.as_ref().map(copies).or_else(|| bucket.map(in_bucket)),
            accept_loss_after: self.accept_loss_after.map(Position),
            before_cut: Some(set_index_aside(data, &stamp)),
        };
        let treatment = doctor.treat(&found, &orders, &stamp, go_on);
        Ok(Report { found, treatment: Some((treatment, format!("damaged/{stamp}"))) })
    }
}

/// What there was to say: before, what was done, after.
struct Report {
    found: Diagnosis,
    treatment: Option<(Treatment, String)>,
}

impl Report {
    fn after(&self) -> Option<&Diagnosis> {
        self.treatment.as_ref().and_then(|(treatment, _)| treatment.after.as_ref())
    }

    /// How it is now.
    fn now(&self) -> &Diagnosis {
        self.after().unwrap_or(&self.found)
    }

    fn ended(&self) -> Option<&Error> {
        self.treatment.as_ref().and_then(|(treatment, _)| treatment.ended.as_ref())
    }

    fn json(&self) -> Value {
        let mut value = diagnosis_json(&self.found);
        if let Some((treatment, kept)) = &self.treatment {
            let kept = (!treatment.done.is_empty()).then_some(kept);
            let ended = treatment.ended.as_ref().map(ToString::to_string);
            value["treatment"] =
                json!({"done": treatment.done, "left": treatment.left, "kept": kept, "ended_early": ended});
        }
        if let Some(after) = self.after() {
            value["after"] = diagnosis_json(after);
        }
        value
    }

    fn text(&self) -> String {
        let mut lines = diagnosis_text(&self.found);
        if let Some((treatment, kept)) = &self.treatment {
            lines.extend(treatment.done.iter().map(|done| format!("done: {done}")));
            lines.extend(treatment.left.iter().map(|left| format!("left: {left}")));
            if !treatment.done.is_empty() {
                lines.push(format!("what was done is told in {kept}/report.txt in the data directory"));
            }
        }
        if let Some(after) = self.after() {
            lines.push("now:".to_owned());
            lines.extend(diagnosis_text(after));
        }
        lines.join("\n")
    }
}

fn diagnosis_json(found: &Diagnosis) -> Value {
    let finding = |finding: &Finding| {
        json!({
            "file": finding.file,
            "offset": finding.offset,
            "bytes": finding.bytes,
            "problem": finding.problem,
            "events": finding.events.map(|(first, last)| [first.0, last.0]),
            "damage": finding.remedy.is_damage(),
            "remedy": finding.remedy.to_string(),
        })
    };
    json!({
        "healthy": found.is_healthy(),
        "log": found.log.map(|log| log.to_string()),
        "segments": found.segments,
        "events": found.events,
        "readable_to": found.readable_to.0,
        "end": found.end.0,
        "packs": found.packs,
        "bytes": found.bytes,
        "damaged": found.damaged(),
        "findings": found.findings.iter().map(finding).collect::<Vec<_>>(),
        "more": found.more,
    })
}

fn diagnosis_text(found: &Diagnosis) -> Vec<String> {
    let mut lines = Vec::new();
    for finding in &found.findings {
        let state = if finding.remedy.is_damage() { "damaged" } else { "note" };
        let bytes = finding.bytes.map_or_else(String::new, |bytes| format!(", {bytes} bytes"));
        let events = finding.events.map_or_else(String::new, |(first, last)| match first == last {
            true => format!("; event {first} cannot be read"),
            false => format!("; events {first} to {last} cannot be read"),
        });
        lines.push(format!("{state}: {} at byte {}{bytes}: {}{events}", finding.file, finding.offset, finding.problem));
        lines.push(format!("  {}", finding.remedy));
    }
    if found.more > 0 {
        lines.push(format!("{} more", found.more));
    }
    let packs = found.packs.map_or_else(|| "packs not looked at".to_owned(), |packs| format!("{packs} packs"));
    let events = match found.readable_to == found.end {
        true => format!("{} events", found.events),
        false => format!("{} events can be read, all up to {} of {}", found.events, found.readable_to, found.end),
    };
    let state = if found.is_healthy() { "healthy".to_owned() } else { format!("{} damaged", found.damaged()) };
    lines.push(format!("{events} in {} segments, {packs}, {} bytes read: {state}", found.segments, found.bytes));
    lines
}

/// What a bucket has of the log is a copy like any other.
fn in_bucket(bucket: Arc<dyn ObjectStore>) -> Copies {
    let files: Arc<dyn Disk> = Arc::new(StoreFiles::new(bucket));
    Copies { disk: Arc::clone(&files), pack_files: files }
}

fn patient(data: &Path, bucket: Option<Arc<dyn ObjectStore>>) -> Patient {
    Patient {
        bucket,
        disk: Arc::new(RealDisk::new(data.to_owned())),
        pack_files: Arc::new(RealDisk::new(data.join(OBJECTS))),
        pack_root: PACKS_UNDER,
        random: Arc::new(SystemRandom),
    }
}

/// An index that knows more than the log is taken for the sign of a loss. Right before an accepted loss it goes to what is kept,
/// and the next start folds another one.
fn set_index_aside(data: &Path, stamp: &str) -> BeforeCut {
    let (disk, dir) = (RealDisk::new(data.to_owned()), format!("damaged/{stamp}"));
    Arc::new(move || {
        if disk.list(INDEX)?.is_empty() {
            return Ok(None);
        }
        let kept = format!("{dir}/{INDEX}");
        disk::make_dir(&disk, &dir)?;
        disk.rename(INDEX, &kept)?;
        disk.sync_dir(&dir)?;
        disk.sync_dir("")?;
        Ok(Some(format!("{INDEX}/: taken away, kept as {kept}; the next start folds another one")))
    })
}

/// A directory name for this moment: `20261121T051500.123Z`.
fn stamp(now_ms: u64) -> String {
    let at = i64::try_from(now_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.unwrap_or_default().strftime("%Y%m%dT%H%M%S%.3fZ").to_string()
}

/// [`OBJECTS`] as the beginning of a path.
const PACKS_UNDER: &str = "objects/";
