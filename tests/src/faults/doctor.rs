//! The doctor on a simulated disk: is every damage named, is only proven content put in its place, is nothing lost twice.
//!
//! Invariants: a patient is an image with one damage; the same image without it is the copy; what comes out is judged by
//! opening the engine on it.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use reprise_engine::{
    clock::SeededRandom,
    disk::{
        Disk,
        sim::{SimDisk, Survival, image::Image},
    },
    doctor::{Copies, Diagnosis, Doctor, Orders, Patient, Treatment},
    engine::{Outcome, Proposal, Tail},
    error::Result,
    event::EventBody,
    id::Position,
};

use super::{
    damage::Rest,
    judge::append_one,
    run::{open, read_until_error},
};

/// What is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allowed {
    /// Take what is missing from a copy.
    Copy,
    /// End the log before the damage.
    Loss,
}

/// The doctor of a disk that holds log and packs.
pub fn doctor_of(disk: Arc<dyn Disk>) -> Result<Doctor> {
    let patient = Patient {
        pack_files: Arc::clone(&disk),
        disk,
        pack_root: "",
        bucket: None,
        random: Arc::new(SeededRandom::new(5)),
    };
    Doctor::admit(patient, "a test")
}

/// Looks, packs too.
pub fn examine(disk: &SimDisk) -> Result<Diagnosis> {
    doctor_of(Arc::new(disk.clone()))?.examine(true, &mut |_, _| true)
}

/// Take from an image, give up what comes after a position.
pub fn orders(copy: Option<&Image>, accept_loss_after: Option<u64>) -> Orders {
    let from = copy.map(|image| {
        let copy: Arc<dyn Disk> = Arc::new(SimDisk::from_image(image));
        Copies { disk: Arc::clone(&copy), pack_files: copy }
    });
    Orders { from, accept_loss_after: accept_loss_after.map(Position), before_cut: None }
}

/// Looks, then does what the orders allow.
pub fn treat_with(disk: &SimDisk, orders: &Orders) -> Result<(Diagnosis, Treatment)> {
    let doctor = doctor_of(Arc::new(disk.clone()))?;
    let found = doctor.examine(true, &mut |_, _| true)?;
    let mut treatment = doctor.treat(&found, orders, STAMP, &mut |_, _| true);
    treatment.ended.take().map_or(Ok((found, treatment)), Err)
}

/// Looks, then does what is allowed.
pub fn treat(disk: &SimDisk, rest: &Rest, allowed: Allowed) -> Result<(Diagnosis, Treatment)> {
    treat_with(
        disk,
        &match allowed {
            // Whether a copy of the last segment is the newest one is for the operator to say.
            Allowed::Copy => orders(Some(&rest.image), Some(rest.events.len() as u64)),
            Allowed::Loss => orders(None, Some(examine(disk)?.readable_to.0)),
        },
    )
}

/// The segments of an image, in order.
pub fn segments(image: &Image) -> Vec<String> {
    image.files.keys().filter(|path| path.starts_with("log/seg-")).cloned().collect()
}

/// Where frames begin in a segment, marks included (FORMAT.md 4.2).
pub fn frames(segment: &[u8]) -> Vec<usize> {
    (4096..segment.len() - 4).step_by(8).filter(|at| segment[*at..].starts_with(b"RpFr")).collect()
}

/// Goes on with the log of an image: proposes each, then closes it or not.
pub fn go_on(image: &Image, segment_bytes: u64, proposals: &[Proposal], shutdown: bool) -> Image {
    let disk = SimDisk::from_image(image);
    let (engine, _) = open(&disk, segment_bytes).unwrap();
    for proposal in proposals {
        let (sender, answer) = mpsc::channel();
        engine.propose(proposal.clone(), Box::new(move |outcome| drop(sender.send(outcome))));
        let outcome = answer.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(matches!(outcome, Outcome::Done { repeated: false, .. }), "{outcome:?}");
    }
    if shutdown {
        engine.shutdown().unwrap();
    }
    disk.image()
}

/// Opens what the doctor left: it must be a log that is written to, with every event (after a copy) or the first ones (after a
/// loss), and nothing else.
pub fn judge(rest: &Rest, disk: &SimDisk, allowed: Allowed, readable_to: Position) -> std::result::Result<(), String> {
    let again = examine(disk).map_err(|error| format!("looking again: {error}"))?;
    if !again.is_healthy() {
        return Err(format!("still damaged: {:?}", again.findings));
    }
    let (engine, report) = open(disk, rest.segment_bytes).map_err(|error| format!("opening: {error}"))?;
    if let Tail::Damaged { file, offset, message } = report.tail {
        return Err(format!("still damaged in {file} at {offset}: {message}"));
    }
    let (events, error) = read_until_error(&engine);
    if let Some(error) = error {
        return Err(format!("reading: {error}"));
    }
    let bodies: Vec<&EventBody> = events.iter().map(|event| &event.body).collect();
    let wanted = match allowed {
        Allowed::Copy => rest.events.len(),
        Allowed::Loss => readable_to.0 as usize,
    };
    if bodies.len() != wanted || !bodies.iter().zip(&rest.events).all(|(found, known)| *found == known) {
        return Err(format!("{} of {} events, readable to {readable_to}", bodies.len(), rest.events.len()));
    }
    append_one(&engine, events.len())
}

/// Every file that was replaced or taken away is kept as it was.
pub fn check_kept(before: &Image, after: &Image) -> std::result::Result<(), String> {
    for (path, content) in before.files.iter().filter(|(path, _)| path.contains("seg-") || path.ends_with(".pack")) {
        if path.starts_with("damaged/") || after.files.get(path) == Some(content) {
            continue;
        }
        // A name that is taken gets a number.
        let kept = format!("damaged/{STAMP}/{path}");
        let mut names = after.files.range(kept.clone()..).take_while(|(name, _)| name.starts_with(&kept));
        if !names.any(|(_, kept)| kept == content) {
            return Err(format!("{path} was changed and not kept"));
        }
    }
    Ok(())
}

/// The power fails at every change of a treatment; the next one ends it.
pub fn interrupted(rest: &Rest, damaged: &Image, allowed: Allowed) -> std::result::Result<usize, String> {
    let disk = SimDisk::from_image(damaged);
    let (found, _) = treat(&disk, rest, allowed).map_err(|error| error.to_string())?;
    let history = disk.history();
    let mut images = 0;
    for cut in 0..=history.len() {
        for survival in Survival::EVERY {
            images += 1;
            let crashed = SimDisk::from_image(&history.image_at(cut, survival, cut as u64));
            let at = |wrong: String| format!("power lost behind change {cut} ({survival:?}): {wrong}");
            // What was being done is done again; the damage, if it is still there, is the same.
            treat(&crashed, rest, allowed).map_err(|error| at(error.to_string()))?;
            check_kept(damaged, &crashed.image()).map_err(at)?;
            let healed = SimDisk::from_image(&crashed.crash(Survival::None, 0).image());
            judge(rest, &healed, allowed, found.readable_to).map_err(at)?;
        }
    }
    Ok(images)
}

/// Where treatments keep what they replace.
const STAMP: &str = "today";
