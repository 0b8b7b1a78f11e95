//! What can be wrong with the files of an index that nobody has open: rot, torn and lost files, files of another moment.
//!
//! Invariants: a damage is data, so that a report says exactly what was done; every kind and every part of an index comes up
//! by counting, not by luck.

use std::fmt;

use rand::{RngExt, rngs::StdRng};

use super::{
    image::{Content, Image},
    past::Past,
};
use crate::seeds;

/// A part of an index: files that fail alike.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Part {
    /// The store's journal.
    Journal,
    /// Rows.
    Table,
    /// The store's lists of tables, and which list counts.
    Version,
    /// Its mark of a format and its lock.
    Marker,
    /// Our own small files.
    Record,
}

/// One thing that is done to an index.
#[derive(Clone)]
pub enum Damage {
    /// One bit is another one.
    Bit(String, usize, u32),
    /// Bytes are others.
    Bytes(String, usize, Vec<u8>),
    /// A page reads as zeros.
    Zeroed(String, usize, usize),
    /// A file ends early.
    Cut(String, usize),
    /// A file goes on behind its end.
    Longer(String, Vec<u8>),
    /// A file holds something else, or nothing.
    Junk(String, Vec<u8>),
    /// A file is not there.
    Gone(String),
    /// Two files of a part have changed places.
    Swapped(String, String),
    /// A file is what it was, or would be, at another moment.
    FileOf(String, usize),
    /// So is everything below a directory of the store.
    DirectoryOf(String, usize),
    /// So are all of our own files.
    RecordsOf(usize),
    /// A directory of the store is not there.
    DirectoryGone(String),
    /// There is a file that nobody made.
    Stray(String, Vec<u8>),
}

/// How many kinds [`Damage::choose`] tells apart.
pub const KINDS: usize = 13;

impl Part {
    /// All of them.
    pub const ALL: [Part; 5] = [Part::Journal, Part::Table, Part::Version, Part::Marker, Part::Record];

    /// The part that a file belongs to.
    pub fn of(path: &str) -> Part {
        match path.rsplit_once('/') {
            None => Part::Record,
            Some((dir, _)) if dir.ends_with("/tables") => Part::Table,
            Some((dir, _)) if dir.contains("/keyspaces/") => Part::Version,
            Some((_, name)) if name.ends_with(".jnl") => Part::Journal,
            Some(_) => Part::Marker,
        }
    }
}

impl Damage {
    /// The `kind`-th kind of damage to a file of `part`, if the index at `moment` has something that it can be done to.
    pub fn choose(kind: usize, part: Part, random: &mut StdRng, past: &Past, moment: usize) -> Option<Damage> {
        let index = &past.moments[moment].index;
        let files: Vec<&String> = index.files.keys().filter(|path| Part::of(path) == part).collect();
        let path = pick(random, &files)?.to_string();
        let used = index.files[&path].bytes.len();
        let other = (moment + random.random_range(1..past.moments.len())) % past.moments.len();
        let within = |random: &mut StdRng| (used > 0).then(|| random.random_range(0..used));
        Some(match kind {
            0 => Damage::Bit(path, within(random)?, random.random_range(0..8)),
            1 => Damage::Bytes(path, within(random)?, junk(random, 64)),
            2 => {
                let page = [512, 4_096][random.random_range(0..2)];
                Damage::Zeroed(path, within(random)? / page * page, page)
            }
            3 => Damage::Cut(path, within(random)?),
            4 => Damage::Longer(path, junk(random, 5_000)),
            5 => Damage::Junk(path, junk(random, 300)),
            6 => Damage::Gone(path),
            7 => {
                let second = pick(random, &files).filter(|second| ***second != path)?;
                Damage::Swapped(path, second.to_string())
            }
            8 => Damage::FileOf(path, other),
            9 => Damage::DirectoryOf(directory(random, index)?, other),
            10 => Damage::RecordsOf(other),
            11 => Damage::DirectoryGone(directory(random, index)?),
            _ => Damage::Stray(stray(random, &path), junk(random, 300)),
        })
    }

    /// Does it, as far as damage that was done before has left something to do it to.
    pub fn apply(&self, index: &mut Image, past: &Past) {
        match self {
            Damage::Bit(path, at, bit) => bytes_from(index, path, *at).take(1).for_each(|byte| *byte ^= 1 << bit),
            Damage::Bytes(path, at, others) => {
                bytes_from(index, path, *at).zip(others).for_each(|(byte, other)| *byte = *other);
            }
            Damage::Zeroed(path, at, len) => bytes_from(index, path, *at).take(*len).for_each(|byte| *byte = 0),
            Damage::Cut(path, len) => {
                if let Some(content) = index.files.get_mut(path) {
                    content.bytes.truncate(*len);
                    content.len = content.len.min(*len as u64);
                }
            }
            Damage::Longer(path, more) => {
                if let Some(Content { bytes, len }) = index.files.get_mut(path) {
                    bytes.resize(*len as usize, 0);
                    bytes.extend_from_slice(more);
                    *len = bytes.len() as u64;
                }
            }
            Damage::Junk(path, junk) | Damage::Stray(path, junk) => {
                index.files.insert(path.clone(), Content::of(junk.clone()));
            }
            Damage::Gone(path) => drop(index.files.remove(path)),
            Damage::Swapped(one, other) => {
                let (first, second) = (index.files.remove(one), index.files.remove(other));
                index.files.extend(first.map(|content| (other.clone(), content)));
                index.files.extend(second.map(|content| (one.clone(), content)));
            }
            Damage::FileOf(path, moment) => {
                index.files.remove(path);
                let other = past.moments[*moment].index.files.get(path).cloned();
                index.files.extend(other.map(|content| (path.clone(), content)));
            }
            Damage::DirectoryOf(dir, moment) => index.replace_dir(dir, &past.moments[*moment].index),
            Damage::RecordsOf(moment) => {
                let is_record = |path: &str| Part::of(path) == Part::Record;
                index.files.retain(|path, _| !is_record(path));
                let others = past.moments[*moment].index.files.iter().filter(|(path, _)| is_record(path));
                index.files.extend(others.map(|(path, content)| (path.clone(), content.clone())));
            }
            Damage::DirectoryGone(dir) => index.remove_dir(dir),
        }
    }

    /// True if a whole table now stands in the place of another: then rows may be missing until every table was looked at.
    pub fn misplaces_tables(&self) -> bool {
        matches!(self, Damage::Swapped(path, _) if Part::of(path) == Part::Table)
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Bit(path, at, bit) => write!(out, "bit {bit} of byte {at} of {path} flipped"),
            Damage::Bytes(path, at, others) => write!(out, "{} bytes of {path} overwritten at {at}", others.len()),
            Damage::Zeroed(path, at, len) => write!(out, "{len} bytes of {path} zeroed at {at}"),
            Damage::Cut(path, len) => write!(out, "{path} cut to {len} bytes"),
            Damage::Longer(path, more) => write!(out, "{} bytes of junk behind {path}", more.len()),
            Damage::Junk(path, junk) => write!(out, "{} bytes of junk in {path}", junk.len()),
            Damage::Gone(path) => write!(out, "{path} gone"),
            Damage::Swapped(one, other) => write!(out, "{one} and {other} swapped"),
            Damage::FileOf(path, moment) => write!(out, "{path} as at moment {moment}"),
            Damage::DirectoryOf(dir, moment) => write!(out, "{dir} as at moment {moment}"),
            Damage::RecordsOf(moment) => write!(out, "the records as at moment {moment}"),
            Damage::DirectoryGone(dir) => write!(out, "{dir} gone"),
            Damage::Stray(path, junk) => write!(out, "{} bytes of junk in a new file {path}", junk.len()),
        }
    }
}

fn bytes_from<'a>(index: &'a mut Image, path: &str, at: usize) -> impl Iterator<Item = &'a mut u8> {
    index.files.get_mut(path).into_iter().flat_map(move |content| content.bytes.iter_mut().skip(at))
}

fn directory(random: &mut StdRng, index: &Image) -> Option<String> {
    let dirs: Vec<&String> = index.dirs.iter().collect();
    pick(random, &dirs).map(|dir| (*dir).clone())
}

/// A name beside `path` that the store or we might take for one of theirs or ours.
fn stray(random: &mut StdRng, path: &str) -> String {
    let dir = path.rsplit_once('/').map_or(String::new(), |(dir, _)| format!("{dir}/"));
    let names = ["opening", "CURRENT.new", "v999", "999", "1.jnl", "gen-000099", "gen-000001.clean", "core"];
    format!("{dir}{}", names[random.random_range(0..names.len())])
}

/// Up to `most` bytes, sometimes none.
fn junk(random: &mut StdRng, most: usize) -> Vec<u8> {
    let length = random.random_range(0..=most);
    seeds::bytes(random, length)
}

fn pick<'a, T>(random: &mut StdRng, from: &'a [T]) -> Option<&'a T> {
    (!from.is_empty()).then(|| &from[random.random_range(0..from.len())])
}
