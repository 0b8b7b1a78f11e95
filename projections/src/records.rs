//! Our own small files beside the store: which generation is live, what was flushed, how the last process ended.
//!
//! Each is a line that names it, one line of JSON, and a line with the CRC32C of both; it is written to a new name, synced,
//! renamed, and its directory synced, so that it is there wholly or not at all. A file that does not check out counts as
//! not there, which always means more folding, never less.

use std::collections::BTreeMap;

use reprise_engine::{
    Error, Result,
    disk::{Disk, read_exact_at, write_all_at},
    id::{ChainHash, Position},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{models::Model, projections::Checkpoint, store::Stamp};

/// `CURRENT`: the live generation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Current {
    /// Its directory.
    pub generation: String,
    /// Code version of every projection in it.
    pub versions: BTreeMap<String, u32>,
}

/// `<generation>.flushed`: everything up to here is durable in the store's tables. `<generation>.clean`: and nothing was
/// written after it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Flushed {
    /// Last position whose rows are durable.
    pub position: u64,
    /// The log's chained hash there, hex.
    pub chain: String,
    /// The stamp that every keyspace carries since.
    pub stamp: u64,
}

/// `opening`: the generation that is being opened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Opening {
    /// Its directory.
    pub generation: String,
}

/// `<aside>.loss`: the generation that is kept beside it knew more than the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Loss {
    /// What was found.
    pub reason: String,
    /// What the generation knew. A log that has it has lost nothing of it; without it only a person can say.
    #[serde(default)]
    pub known: Option<Known>,
}

/// An end of the log that an index was once at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Known {
    /// Position of the last event.
    pub position: u64,
    /// The log's chained hash there, hex.
    pub chain: String,
}

impl Current {
    /// `generation`, built by this code.
    pub fn of(generation: &str) -> Current {
        let versions = Model::ALL.into_iter().map(|model| (model.name().to_owned(), model.version())).collect();
        Current { generation: generation.to_owned(), versions }
    }

    /// Why this code cannot read the generation, if so.
    pub fn outdated(&self) -> Option<String> {
        for model in Model::ALL {
            match self.versions.get(model.name()) {
                None => return Some(format!("projection {} did not exist", model.name())),
                Some(version) if *version != model.version() => {
                    let (name, now) = (model.name(), model.version());
                    return Some(format!("projection {name} changed from code version {version} to {now}"));
                }
                Some(_) => {}
            }
        }
        (self.versions.len() > Model::ALL.len()).then(|| "a projection exists no more".to_owned())
    }
}

impl Known {
    /// What a checkpoint stands for.
    pub fn of(checkpoint: Checkpoint) -> Known {
        Known { position: checkpoint.position.0, chain: checkpoint.chain.to_string() }
    }
}

impl Flushed {
    /// A flush of everything up to `checkpoint`.
    pub fn of(checkpoint: Checkpoint, stamp: u64) -> Flushed {
        Flushed { position: checkpoint.position.0, chain: checkpoint.chain.to_string(), stamp }
    }

    /// Up to where.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        Ok(Checkpoint { position: Position(self.position), chain: self.chain.parse()? })
    }
}

/// Name of `CURRENT`.
pub const CURRENT: &str = "CURRENT";
/// Name of the marker that stands while a store is being opened.
pub const OPENING: &str = "opening";

/// How the name of a flush record ends.
pub const FLUSHED: &str = ".flushed";
/// How the name of a record of a possible loss ends.
pub const LOSS: &str = ".loss";

/// Name of a generation's flush record.
pub fn flushed_name(generation: &str) -> String {
    format!("{generation}{FLUSHED}")
}

/// Name of the record of what a generation that is kept says about the log.
pub fn loss_name(aside: &str) -> String {
    format!("{aside}{LOSS}")
}

/// Name of a generation's mark of a clean stop.
pub fn clean_name(generation: &str) -> String {
    format!("{generation}.clean")
}

/// Writes a record durably in place of the one before.
pub fn write<T: Serialize>(disk: &dyn Disk, name: &str, record: &T) -> Result<()> {
    let json = serde_json::to_string(record).map_err(|error| Error::invalid(format!("{name}: {error}")))?;
    let head = format!("reprise {} 1\n{json}\n", title(name));
    let text = format!("{head}{:08x}\n", crc32c::crc32c(head.as_bytes()));
    let new = format!("{name}.new");
    remove(disk, &new)?;
    let file = disk.create_new(&new)?;
    write_all_at(&*file, text.as_bytes(), 0)?;
    file.sync_data()?;
    drop(file);
    disk.rename(&new, name)?;
    disk.sync_dir("")
}

/// Reads a record; `None` if there is none or it does not check out.
pub fn read<T: DeserializeOwned>(disk: &dyn Disk, name: &str) -> Result<Option<T>> {
    let file = match disk.open(name) {
        Err(error) if error.is_not_found() => return Ok(None),
        file => file?,
    };
    let len = usize::try_from(file.len()?).unwrap_or(usize::MAX);
    if len > RECORD_BYTES_MAX {
        return Ok(None);
    }
    let mut bytes = vec![0; len];
    read_exact_at(&*file, &mut bytes, 0)?;
    Ok(parse(name, &bytes))
}

/// True if a file of this name stands, whatever is in it.
pub fn stands(disk: &dyn Disk, name: &str) -> Result<bool> {
    match disk.open(name) {
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
        Ok(_) => Ok(true),
    }
}

/// Removes a record durably; fine if there is none.
pub fn remove(disk: &dyn Disk, name: &str) -> Result<()> {
    match disk.remove(name) {
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => disk.sync_dir(""),
    }
}

/// The stored form of a checkpoint: position, chain.
pub fn encode_checkpoint(checkpoint: Checkpoint) -> [u8; 40] {
    let mut bytes = [0; 40];
    bytes[..8].copy_from_slice(&checkpoint.position.0.to_be_bytes());
    bytes[8..].copy_from_slice(&checkpoint.chain.0);
    bytes
}

/// Reads a stored checkpoint.
pub fn decode_checkpoint(bytes: &[u8]) -> Result<Checkpoint> {
    let damaged = || Error::corrupt("projection store", 0, "the checkpoint is malformed");
    let (position, chain) = bytes.split_first_chunk::<8>().ok_or_else(damaged)?;
    let chain = chain.try_into().map_err(|_| damaged())?;
    Ok(Checkpoint { position: Position(u64::from_be_bytes(*position)), chain: ChainHash(chain) })
}

impl Stamp {
    /// The stored form: number, position.
    pub fn encode(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.number.to_be_bytes());
        bytes[8..].copy_from_slice(&self.position.0.to_be_bytes());
        bytes
    }

    /// Reads a stored stamp.
    pub fn decode(bytes: &[u8]) -> Result<Stamp> {
        let bytes: &[u8; 16] =
            bytes.try_into().map_err(|_| Error::corrupt("projection store", 0, "a stamp is malformed"))?;
        let (number, position) = bytes.split_at(8);
        let int = |part: &[u8]| part.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        Ok(Stamp { number: int(number), position: Position(int(position)) })
    }
}

fn parse<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Option<T> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (title_line, rest) = text.split_once('\n')?;
    let (json, check) = rest.split_once('\n')?;
    let head = format!("{title_line}\n{json}\n");
    let good = check == format!("{:08x}\n", crc32c::crc32c(head.as_bytes()));
    let ours = title_line == format!("reprise {} 1", title(name));
    if good && ours { serde_json::from_str(json).ok() } else { None }
}

fn title(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(_, title)| title)
}

const RECORD_BYTES_MAX: usize = 16 << 10;
