//! What changed a simulated disk, in order, and what of it a crash leaves.
//!
//! Invariants: a write, a length or a name that no sync covered is pending, and a crash may keep or lose it, alone or
//! with others ([`Survival`]); what a completed sync covered is always kept; a rename inside one directory is kept or lost
//! whole; a sector is the unit that a power loss tears. The same history, cut and seed give the same image.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{SimDisk, image::Image};
use crate::disk::parent;

/// What becomes of the pending changes at a crash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Survival {
    /// All are kept: the process died, the machine did not.
    All,
    /// None is kept.
    None,
    /// The first few, in order.
    Prefix,
    /// Any of them, sector by sector.
    Reordered,
    /// As `Reordered`, with other luck.
    ReorderedAgain,
    /// All but one write, which ends in the middle of a sector.
    TornSector,
    /// Names and lengths are kept, new bytes are zero.
    ZeroTail,
    /// Bytes are kept, names (all or the last one) are lost.
    LostEntry,
}

impl Survival {
    /// Every way of surviving.
    pub const EVERY: [Survival; 8] = [
        Survival::All,
        Survival::None,
        Survival::Prefix,
        Survival::Reordered,
        Survival::ReorderedAgain,
        Survival::TornSector,
        Survival::ZeroTail,
        Survival::LostEntry,
    ];
}

/// The changes of one disk since it was made.
#[derive(Clone)]
pub struct History {
    start: Tree,
    steps: Vec<Step>,
}

impl History {
    pub(super) fn new(start: Tree, steps: Vec<Step>) -> History {
        History { start, steps }
    }

    /// How many changes there were: a crash can cut before the first and after each.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// True if nothing changed.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The number of the call that made change `index`.
    pub fn call_of(&self, index: usize) -> u64 {
        self.steps[index].call
    }

    /// What a restart finds after a crash behind the first `cut` changes.
    pub fn image_at(&self, cut: usize, survival: Survival, seed: u64) -> Image {
        let mut crash = CrashPoint::new(self.start.clone());
        self.steps[..cut].iter().for_each(|step| crash.advance(&step.change));
        crash.image(survival, seed)
    }

    /// The disk after its process was killed behind the first `cut` changes: all of them are seen, those that no sync
    /// covered are still not durable, and a power loss may follow.
    pub fn killed_at(&self, cut: usize) -> SimDisk {
        SimDisk::after(self.start.clone(), self.steps[..cut].to_vec())
    }

    /// Visits the state behind 0, 1, 2 … changes; much cheaper than `image_at` for each.
    pub fn each_cut(&self, mut visit: impl FnMut(usize, &CrashPoint)) {
        let mut crash = CrashPoint::new(self.start.clone());
        visit(0, &crash);
        for (index, step) in self.steps.iter().enumerate() {
            crash.advance(&step.change);
            visit(index + 1, &crash);
        }
    }
}

/// A moment in a history: what is durable, what is pending.
pub struct CrashPoint {
    durable: Tree,
    pending: Vec<Change>,
}

impl CrashPoint {
    fn new(start: Tree) -> CrashPoint {
        CrashPoint { durable: start, pending: Vec::new() }
    }

    /// Changes that no sync has covered yet.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    fn advance(&mut self, change: &Change) {
        match change {
            Change::SyncFile { file } => {
                for kept in self.pending.extract_if(.., |pending| pending.file_data() == Some(*file)) {
                    self.durable.apply(&kept);
                }
            }
            Change::DropUnsynced { file } => self.pending.retain(|pending| pending.file_data() != Some(*file)),
            Change::DropNames { path } => self.drop_names(path),
            Change::SyncDirectory { path } => self.sync_directory(path),
            _ => self.pending.push(change.clone()),
        }
    }

    fn sync_directory(&mut self, dir: &str) {
        let mut still = Vec::with_capacity(self.pending.len());
        for pending in std::mem::take(&mut self.pending) {
            if !pending.names_in(dir) {
                still.push(pending);
                continue;
            }
            match &pending {
                // Between directories the new name can be durable while the old one still is.
                Change::Rename { from, to, file } if parent(from) != dir => {
                    self.durable.apply(&Change::Link { path: to.clone(), file: *file });
                    still.push(Change::Unlink { path: from.clone() });
                }
                _ => self.durable.apply(&pending),
            }
        }
        self.pending = still;
    }

    /// What is pending in `dir` never reaches the disk; the other half of a move between directories still may.
    fn drop_names(&mut self, dir: &str) {
        for pending in std::mem::take(&mut self.pending) {
            match &pending {
                Change::Rename { from, to, .. } if parent(from) != dir && parent(to) == dir => {
                    self.pending.push(Change::Unlink { path: from.clone() });
                }
                Change::Rename { from, to, file } if parent(from) == dir && parent(to) != dir => {
                    self.pending.push(Change::Link { path: to.clone(), file: *file });
                }
                _ if pending.names_in(dir) => {}
                _ => self.pending.push(pending),
            }
        }
    }

    /// What a restart finds after a crash at this moment.
    pub fn image(&self, survival: Survival, seed: u64) -> Image {
        let mut tree = self.durable.clone();
        let mut random = StdRng::seed_from_u64(seed);
        match survival {
            Survival::All => self.keep(&mut tree, |_| true),
            Survival::None => {}
            Survival::Prefix => {
                let kept = random.random_range(0..=self.pending.len());
                self.pending[..kept].iter().for_each(|pending| tree.apply(pending));
            }
            Survival::Reordered => self.reorder(&mut tree, &mut random),
            Survival::ReorderedAgain => {
                let mut random = StdRng::seed_from_u64(!seed);
                self.reorder(&mut tree, &mut random);
            }
            Survival::TornSector => self.tear(&mut tree, &mut random),
            Survival::ZeroTail => {
                for pending in &self.pending {
                    match pending {
                        Change::Write { file, offset, bytes } => tree.extend(*file, *offset, bytes.len()),
                        other => tree.apply(other),
                    }
                }
            }
            Survival::LostEntry => {
                let last = self.pending.iter().rposition(|pending| pending.file_data().is_none());
                let only_last = seed % 2 == 1;
                for (index, pending) in self.pending.iter().enumerate() {
                    let lost = if only_last { Some(index) == last } else { pending.file_data().is_none() };
                    if !lost {
                        tree.apply(pending);
                    }
                }
            }
        }
        tree.image()
    }

    fn keep(&self, tree: &mut Tree, kept: impl Fn(&Change) -> bool) {
        self.pending.iter().filter(|pending| kept(pending)).for_each(|pending| tree.apply(pending));
    }

    /// Every sector and every name has its own luck; what reaches the disk twice reaches it in order.
    fn reorder(&self, tree: &mut Tree, random: &mut StdRng) {
        for pending in &self.pending {
            match pending {
                Change::Write { file, offset, bytes } => {
                    for (at, sector) in sectors(*offset, bytes) {
                        if random.random_bool(0.5) {
                            tree.write(*file, at, sector);
                        }
                    }
                }
                other if random.random_bool(0.5) => tree.apply(other),
                _ => {}
            }
        }
    }

    /// One write stops in the middle of one of its sectors.
    fn tear(&self, tree: &mut Tree, random: &mut StdRng) {
        let writes = self.pending.iter().enumerate().filter(|(_, pending)| matches!(pending, Change::Write { .. }));
        let writes: Vec<usize> = writes.map(|(index, _)| index).collect();
        // Mostly the last one: the write in flight.
        let torn = match writes.last() {
            Some(last) if random.random_bool(0.5) => Some(*last),
            Some(_) => Some(writes[random.random_range(0..writes.len())]),
            None => None,
        };
        for (index, pending) in self.pending.iter().enumerate() {
            match pending {
                Change::Write { file, offset, bytes } if Some(index) == torn => {
                    let pieces: Vec<_> = sectors(*offset, bytes).collect();
                    let whole = random.random_range(0..pieces.len());
                    pieces[..whole].iter().for_each(|(at, piece)| tree.write(*file, *at, piece));
                    let (at, piece) = pieces[whole];
                    tree.write(*file, at, &piece[..piece.len().div_ceil(2)]);
                }
                other => tree.apply(other),
            }
        }
    }
}

/// Cuts a write at sector borders of the file.
fn sectors(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let to_border = SECTOR_BYTES - usize::try_from(at % SECTOR_BYTES as u64).unwrap_or(0);
        let piece = &bytes[done..bytes.len().min(done + to_border)];
        done += piece.len();
        (!piece.is_empty()).then_some((at, piece))
    })
}

pub(super) type FileId = u64;

/// One change with the call that made it.
#[derive(Clone)]
pub(super) struct Step {
    pub(super) call: u64,
    pub(super) change: Change,
}

#[derive(Clone)]
pub(super) enum Change {
    Write { file: FileId, offset: u64, bytes: Arc<[u8]> },
    SetLen { file: FileId, len: u64 },
    Link { path: String, file: FileId },
    Rename { from: String, to: String, file: FileId },
    Unlink { path: String },
    MakeDirectory { path: String },
    SyncFile { file: FileId },
    DropUnsynced { file: FileId },
    DropNames { path: String },
    SyncDirectory { path: String },
}

impl Change {
    /// The file whose bytes or length this changes.
    fn file_data(&self) -> Option<FileId> {
        match self {
            Change::Write { file, .. } | Change::SetLen { file, .. } => Some(*file),
            _ => None,
        }
    }

    /// True if this changes names in `dir`.
    fn names_in(&self, dir: &str) -> bool {
        match self {
            Change::Link { path, .. } | Change::Unlink { path } | Change::MakeDirectory { path } => parent(path) == dir,
            Change::Rename { from, to, .. } => parent(from) == dir || parent(to) == dir,
            _ => false,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    Directory,
    File(FileId),
}

/// Names and contents. A content without a name is a file that nobody can find any more (or not yet).
#[derive(Clone, Default)]
pub(super) struct Tree {
    names: BTreeMap<String, Node>,
    contents: BTreeMap<FileId, Arc<Vec<u8>>>,
}

impl Tree {
    pub(super) fn from_image(image: &Image) -> Tree {
        let mut tree = Tree::default();
        for path in &image.directories {
            tree.names.insert(path.clone(), Node::Directory);
        }
        for (file, (path, content)) in (1..).zip(&image.files) {
            tree.names.insert(path.clone(), Node::File(file));
            tree.contents.insert(file, Arc::clone(content));
        }
        tree
    }

    pub(super) fn file_ids_end(&self) -> FileId {
        self.contents.last_key_value().map_or(0, |(file, _)| *file)
    }

    pub(super) fn node(&self, path: &str) -> Option<Node> {
        if path.is_empty() { Some(Node::Directory) } else { self.names.get(path).copied() }
    }

    pub(super) fn content(&self, file: FileId) -> &[u8] {
        self.contents.get(&file).map_or(&[], |content| content.as_slice())
    }

    pub(super) fn names_in(&self, dir: &str) -> Vec<String> {
        let inside = self.names.keys().filter(|path| parent(path) == dir);
        inside.map(|path| path.rsplit('/').next().unwrap_or(path).to_owned()).collect()
    }

    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { file, offset, bytes } => self.write(*file, *offset, bytes),
            Change::SetLen { file, len } => self.resize(*file, index(*len)),
            Change::Link { path, file } => {
                self.contents.entry(*file).or_default();
                self.names.insert(path.clone(), Node::File(*file));
            }
            Change::Rename { from, to, file } => {
                self.contents.entry(*file).or_default();
                self.names.remove(from);
                self.names.insert(to.clone(), Node::File(*file));
            }
            Change::Unlink { path } => {
                self.names.remove(path);
            }
            Change::MakeDirectory { path } => {
                self.names.insert(path.clone(), Node::Directory);
            }
            Change::SyncFile { .. }
            | Change::DropUnsynced { .. }
            | Change::DropNames { .. }
            | Change::SyncDirectory { .. } => {}
        }
    }

    fn write(&mut self, file: FileId, offset: u64, bytes: &[u8]) {
        self.extend(file, offset, bytes.len());
        let start = index(offset);
        let content = Arc::make_mut(self.contents.entry(file).or_default());
        content[start..start + bytes.len()].copy_from_slice(bytes);
    }

    fn extend(&mut self, file: FileId, offset: u64, len: usize) {
        let end = index(offset) + len;
        if self.content(file).len() < end {
            self.resize(file, end);
        }
    }

    fn resize(&mut self, file: FileId, len: usize) {
        Arc::make_mut(self.contents.entry(file).or_default()).resize(len, 0);
    }

    /// What can be found by name: a name below a lost directory is lost with it.
    pub(super) fn image(&self) -> Image {
        let mut directories = BTreeSet::new();
        let mut files = BTreeMap::new();
        // A directory sorts before what is in it.
        for (path, node) in &self.names {
            let above = parent(path);
            if !above.is_empty() && !directories.contains(above) {
                continue;
            }
            match node {
                Node::Directory => {
                    directories.insert(path.clone());
                }
                Node::File(file) => {
                    files.insert(path.clone(), self.contents.get(file).cloned().unwrap_or_default());
                }
            }
        }
        Image { directories, files }
    }
}

/// Offsets were checked against the size limit when the change was made.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// What a power loss tears.
const SECTOR_BYTES: usize = 512;
