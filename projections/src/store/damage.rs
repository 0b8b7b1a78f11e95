//! What is wrong with the files of a store in fjall: what reads have met, and what a check of all tables finds.
//!
//! A block has a checksum, but a whole table may be another one's or an older one's and is believed when it is opened, and so is
//! a list of tables in which some are missing. fjall keeps a checksum of every table file, and of the list that counts, and
//! never looks at them: the checks do. Only the first damage is kept; it is answered by a rebuild. An error that passes by
//! itself, such as too many open files, is no damage.
#![allow(clippy::disallowed_methods, reason = "fjall owns these files; this only reads them")]

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
    sync::OnceLock,
};

use fjall::{AbstractTree, AnyTree, LsmError};
use reprise_engine::{Error, ErrorKind, Result};
use xxhash_rust::xxh3::Xxh3Default;

use crate::generation::shown;

/// The first damage that was met.
#[derive(Default)]
pub struct Damage(OnceLock<String>);

impl Damage {
    /// What it was, if anything was met.
    pub fn found(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }

    /// Something is wrong with the store.
    pub fn note(&self, what: &str) {
        if self.0.set(what.to_owned()).is_ok() {
            tracing::error!(what, "a projection store is damaged");
        }
    }

    /// A call into the library ended so.
    pub fn note_error(&self, operation: &str, error: &fjall::Error) {
        if !passes(error) {
            self.note(&format!("{operation}: {error}"));
        }
    }

    /// Reads every table file of a keyspace and notes one that is not what was written. Ends early when told to stop.
    pub fn check_tables(&self, tree: &AnyTree, stop: &dyn Fn() -> bool) {
        // The version keeps its files: a table that is compacted away meanwhile is removed after the check.
        for table in tree.current_version().iter_tables() {
            match hash(&table.path, stop) {
                Ok(Some(hash)) if hash == table.checksum().into_u128() => {}
                Ok(None) => return,
                Ok(Some(_)) => self.note(&format!("{} is not the table that was written", shown(&table.path))),
                Err(error) => self.note_error(&shown(&table.path), &error.into()),
            }
        }
    }
}

/// Looks at the lists of tables of a store that nobody has open: an error if one is not the list that was written.
///
/// Before the store is opened, because opening removes the tables that the list does not name.
pub fn check_lists(generation: &Path) -> Result<()> {
    let failed = |path: &Path, error: io::Error| Error::io("read", shown(path), error);
    let keyspaces = generation.join("keyspaces");
    for entry in fs::read_dir(&keyspaces).map_err(|error| failed(&keyspaces, error))? {
        let keyspace = entry.map_err(|error| failed(&keyspaces, error))?.path();
        let pointer = keyspace.join("current");
        let (number, written) = parse_pointer(&fs::read(&pointer).map_err(|error| failed(&pointer, error))?)
            .ok_or_else(|| not_written(&pointer))?;
        let list = keyspace.join(format!("v{number}"));
        if hash(&list, &|| false).map_err(|error| failed(&list, error))? != Some(written) {
            return Err(not_written(&list));
        }
    }
    Ok(())
}

/// The file that says which list counts: its number, its XXH3-128, and a zero for that kind of checksum.
fn parse_pointer(bytes: &[u8]) -> Option<(u64, u128)> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    let (checksum, kind) = rest.split_first_chunk::<16>()?;
    (kind == [0]).then(|| (u64::from_le_bytes(*number), u128::from_le_bytes(*checksum)))
}

fn not_written(path: &Path) -> Error {
    Error::new(ErrorKind::Unavailable, format!("{} is not what was written", shown(path)))
}

fn hash(path: &Path, stop: &dyn Fn() -> bool) -> io::Result<Option<u128>> {
    let mut file = File::open(path)?;
    let mut bytes = vec![0; READ_BYTES];
    let mut hasher = Xxh3Default::new();
    loop {
        if stop() {
            return Ok(None);
        }
        let count = file.read(&mut bytes)?;
        if count == 0 {
            return Ok(Some(hasher.digest128()));
        }
        hasher.update(&bytes[..count]);
    }
}

/// True for errors of the moment, which say nothing about the files.
fn passes(error: &fjall::Error) -> bool {
    let (fjall::Error::Io(error) | fjall::Error::Storage(LsmError::Io(error))) = error else { return false };
    matches!(error.raw_os_error(), Some(EINTR | ENOMEM | ENFILE | EMFILE))
}

const READ_BYTES: usize = 256 << 10;
const EINTR: i32 = 4;
const ENOMEM: i32 = 12;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
