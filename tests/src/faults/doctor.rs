//! The doctor on a simulated disk: is every damage named, is only proven content put in its place, is nothing lost twice.
//!
//! Invariants: a patient is an image with one damage; the same image without it is the copy; what comes out is judged by
//! opening the engine on it.

use std::sync::Arc;

use reprise_engine::{
    clock::SeededRandom,
    disk::{
        Disk,
        sim::{SimDisk, Survival, image::Image},
    },
    doctor::{Copies, Diagnosis, Doctor, Orders, Patient, Treatment},
    engine::Tail,
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

fn patient(disk: &SimDisk) -> Patient {
    let files: Arc<dyn Disk> = Arc::new(disk.clone());
    Patient { pack_files: Arc::clone(&files), disk: files, random: Arc::new(SeededRandom::new(5)) }
}

/// Looks, packs too.
pub fn examine(disk: &SimDisk) -> Result<Diagnosis> {
    Doctor::admit(patient(disk), "a test")?.examine(true, &mut |_, _| true)
}

/// Looks, then does what is allowed.
pub fn treat(disk: &SimDisk, rest: &Rest, allowed: Allowed) -> Result<(Diagnosis, Treatment)> {
    let doctor = Doctor::admit(patient(disk), "a test")?;
    let found = doctor.examine(true, &mut |_, _| true)?;
    let copy: Arc<dyn Disk> = Arc::new(SimDisk::from_image(&rest.image));
    let from = (allowed == Allowed::Copy).then(|| Copies { disk: Arc::clone(&copy), pack_files: copy });
    let accept_loss_after = Some(match allowed {
        // Whether a copy of the last segment is the newest one is for the operator to say.
        Allowed::Copy => Position(rest.events.len() as u64),
        Allowed::Loss => found.readable_to,
    });
    let treatment = doctor.treat(&found, &Orders { from, accept_loss_after }, "today")?;
    Ok((found, treatment))
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
        // A tear at the end, which recovery cuts, may take the last event too.
        Allowed::Loss => bodies.len().clamp((readable_to.0 as usize).saturating_sub(1), readable_to.0 as usize),
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
        if after.files.get(&format!("damaged/today/{path}")) != Some(content) {
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
        for survival in [Survival::All, Survival::None, Survival::Reordered, Survival::TornSector, Survival::LostEntry]
        {
            images += 1;
            let crashed = SimDisk::from_image(&history.image_at(cut, survival, cut as u64));
            let at = |wrong: String| format!("power lost behind change {cut} ({survival:?}): {wrong}");
            // What was being done is done again; the damage, if it is still there, is the same.
            treat(&crashed, rest, allowed).map_err(|error| at(error.to_string()))?;
            let healed = SimDisk::from_image(&crashed.crash(Survival::None, 0).image());
            judge(rest, &healed, allowed, found.readable_to).map_err(at)?;
        }
    }
    Ok(images)
}
