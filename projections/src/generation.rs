//! Generations on the file system: their names, and removing what is not live.
//!
//! A generation is one complete build of all projections, a directory `gen-<nnnnnn>`; `aside-<nnnnnn>` is one that was
//! kept, with `aside-<nnnnnn>.loss` beside it if it knew more than the log. Never removes an aside generation.
#![allow(clippy::disallowed_methods, reason = "fjall owns these directories; no other code of ours enters them")]

use std::{fs, io, path::Path};

use reprise_engine::{Error, Result, disk::Disk, id::Position};

use crate::{
    projections::Checkpoint,
    records::{self, Flushed, Loss},
    source::Source,
};

/// The highest number of all that exist; 0 if there is none.
pub fn last_number(disk: &dyn Disk) -> Result<u64> {
    let names = disk.list("")?;
    Ok(names.iter().filter_map(|name| number(name)).max().unwrap_or(0))
}

/// The name of generation `number`.
pub fn name_of(number: u64) -> String {
    format!("{LIVE}{number:06}")
}

/// A path for people: from the generation's directory on. Where that is on this machine is nobody's business.
pub fn shown(path: &Path) -> String {
    let names: Vec<_> = path.iter().map(|name| name.to_string_lossy()).collect();
    let from = names.iter().position(|name| name.starts_with(LIVE)).unwrap_or(names.len().saturating_sub(1));
    names[from..].join("/")
}

/// True if there is a directory at `path`.
pub fn exists(path: &Path) -> bool {
    path.is_dir()
}

/// Removes a generation's directory with everything in it, or whatever else has its name; fine if it is not there.
pub fn remove(path: &Path) -> Result<()> {
    let removed = match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => fs::remove_file(path),
        removed => removed,
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|error| Error::io("remove", shown(path), error)),
    }
}

/// The name under which a generation is kept.
pub fn aside_name(generation: &str) -> String {
    generation.replacen(LIVE, ASIDE, 1)
}

/// Keeps a generation under a name that nothing opens. With `loss`, because it knows more than the log: that is reported at
/// every start while the record of it stands.
pub fn set_aside(disk: &dyn Disk, generation: &str, loss: Option<&Loss>) -> Result<()> {
    let aside = aside_name(generation);
    if let Some(loss) = loss {
        // First: a crash after it only reports more than is there.
        records::write(disk, &records::loss_name(&aside), loss)?;
    }
    match disk.rename(generation, &aside) {
        Err(error) if error.is_not_found() => {}
        renamed => renamed?,
    }
    records::remove(disk, &records::flushed_name(generation))?;
    records::remove(disk, &records::clean_name(generation))?;
    disk.sync_dir("")
}

/// The generations whose records say that they were flushed beyond `durable`, with those records.
pub fn flushed_beyond(disk: &dyn Disk, durable: Position) -> Result<Vec<(String, Flushed)>> {
    let mut found = Vec::new();
    for name in disk.list("")? {
        let Some(generation) = name.strip_suffix(records::FLUSHED).filter(|name| name.starts_with(LIVE)) else {
            continue;
        };
        if let Some(flushed) = records::read::<Flushed>(disk, &name)?
            && Position(flushed.position) > durable
        {
            found.push((generation.to_owned(), flushed));
        }
    }
    Ok(found)
}

/// What the records of possible losses say. One that speaks of events that the log has goes: they came back, from a copy of the
/// log for example. The generation that knew them stays.
pub fn losses(disk: &dyn Disk, source: &dyn Source) -> Result<Vec<String>> {
    let mut losses = Vec::new();
    for name in disk.list("")?.iter().filter(|name| name.starts_with(ASIDE) && name.ends_with(records::LOSS)) {
        let loss: Option<Loss> = records::read(disk, name)?;
        if loss.as_ref().is_some_and(|loss| came_back(loss, source)) {
            tracing::info!(name, "the log has everything that this index knew: no loss any more");
            records::remove(disk, name)?;
            continue;
        }
        // A record that cannot be read still stands for a loss.
        losses.push(loss.map_or_else(|| format!("{name} cannot be read"), |loss| loss.reason));
    }
    Ok(losses)
}

/// Whether the log has what was taken for lost. What cannot be asked now is not refuted.
fn came_back(loss: &Loss, source: &dyn Source) -> bool {
    let known = loss.known.as_ref().and_then(|known| {
        let chain = known.chain.parse().ok()?;
        Some(Checkpoint { position: Position(known.position), chain })
    });
    known.is_some_and(|known| {
        known.position <= source.durable().position
            && source.chain_at(known.position).is_ok_and(|chain| chain == Some(known.chain))
    })
}

/// Removes every generation but `live`, and records of generations that are gone. What cannot be removed is told and left:
/// it takes room, but nothing depends on it, as a number is never given twice.
pub fn sweep(disk: &dyn Disk, root: &Path, live: Option<&str>) -> Result<()> {
    for name in disk.list("")? {
        let stem = name.split('.').next().unwrap_or_default();
        if !stem.starts_with(LIVE) || Some(stem) == live {
            continue;
        }
        let removed = if name == stem { remove(&root.join(&name)) } else { records::remove(disk, &name) };
        if let Err(error) = removed {
            tracing::warn!(name, %error, "what an earlier process left could not be removed");
        }
    }
    Ok(())
}

/// The number in the name of a generation or of its records.
pub fn number(name: &str) -> Option<u64> {
    let stem = name.split('.').next()?;
    stem.strip_prefix(LIVE).or_else(|| stem.strip_prefix(ASIDE))?.parse().ok()
}

const LIVE: &str = "gen-";
const ASIDE: &str = "aside-";
