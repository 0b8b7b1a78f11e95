//! Generations on the file system: their names, and removing what is not live.
//!
//! A generation is one complete build of all projections, a directory `gen-<nnnnnn>`; `aside-<nnnnnn>` is one that was
//! kept because it knew more than the log. Never removes an aside generation.
#![allow(clippy::disallowed_methods, reason = "fjall owns these directories; no other code of ours enters them")]

use std::{fs, io, path::Path};

use reprise_engine::{Error, Result, disk::Disk};

use crate::records;

/// The highest number of all that exist; 0 if there is none.
pub fn last_number(disk: &dyn Disk) -> Result<u64> {
    let names = disk.list("")?;
    Ok(names.iter().filter_map(|name| number(name)).max().unwrap_or(0))
}

/// The name of generation `number`.
pub fn name_of(number: u64) -> String {
    format!("{LIVE}{number:06}")
}

/// True if there is a directory at `path`.
pub fn exists(path: &Path) -> bool {
    path.is_dir()
}

/// Removes a generation's directory with everything in it; fine if it is not there.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|error| Error::io("remove", path.display().to_string(), error)),
    }
}

/// Keeps a generation that knows more than the log, under a name that nothing opens. Returns the name.
pub fn set_aside(disk: &dyn Disk, generation: &str) -> Result<String> {
    let aside = generation.replacen(LIVE, ASIDE, 1);
    disk.rename(generation, &aside)?;
    records::remove(disk, &records::flushed_name(generation))?;
    records::remove(disk, &records::clean_name(generation))?;
    disk.sync_dir("")?;
    Ok(aside)
}

/// Removes every generation but `live`, and records of generations that are gone.
pub fn sweep(disk: &dyn Disk, root: &Path, live: Option<&str>) -> Result<()> {
    for name in disk.list("")? {
        let stem = name.split('.').next().unwrap_or_default();
        if !stem.starts_with(LIVE) || Some(stem) == live {
            continue;
        }
        if name == stem { remove(&root.join(&name))? } else { records::remove(disk, &name)? }
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
