//! The simulated disk: a POSIX disk in memory that remembers what is durable, and can fail at any call.
//!
//! Invariants: a file's bytes are durable after `sync_data` of the file, a name after `sync_dir` of its directory, nothing
//! else ever is ([`history`]); every call of the trait is numbered from 1; equal calls and equal seeds give equal disks; after a
//! crash every call fails until a new disk is made from what survived. A failed sync that dropped its data answers Ok
//! when it is tried again, as Linux does (F4). It must never keep a rule that a real disk breaks.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use self::{
    history::{Change, FileId, Node, Step, Tree},
    image::Image,
};
use super::{Disk, DiskFile, DiskLock, check_path, parent};
use crate::error::{Error, ErrorKind, Result};

pub mod history;
pub mod image;

pub use self::history::{History, Survival};

/// What the planned call does instead of working. A fault that does not fit its call (a short sync) does nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The machine stops before the call has any effect; all later calls fail.
    Crash,
    /// A sync fails with EIO; the bytes or names stay in the cache, not durable, and may be synced later.
    SyncErrorKept,
    /// A sync fails with EIO; the bytes or names are never written, and later syncs answer Ok.
    SyncErrorDropped,
    /// ENOSPC from a call that needs room.
    NoSpace,
    /// EMFILE from a call that needs a descriptor.
    TooManyFiles,
    /// EIO from a read or a listing.
    ReadError,
    /// A read or write moves half of its bytes (at least one).
    Short,
}

/// A disk in memory. Cheap to clone: clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    calls: u64,
    start: Tree,
    now: Tree,
    steps: Vec<Step>,
    files_made: FileId,
    plan: BTreeMap<u64, Fault>,
    fired: Vec<u64>,
    crashed: bool,
    full: bool,
    locks: BTreeMap<String, String>,
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> SimDisk {
        SimDisk::from_image(&Image::default())
    }

    /// A disk that holds `image`, all of it durable: what a machine finds after a restart.
    pub fn from_image(image: &Image) -> SimDisk {
        SimDisk::after(image.tree(), Vec::new())
    }

    /// A disk that went through these steps, and whose locks are free.
    fn after(start: Tree, steps: Vec<Step>) -> SimDisk {
        let mut now = start.clone();
        steps.iter().for_each(|step| now.apply(&step.change));
        let files_made = now.file_ids_end();
        let state = State {
            calls: steps.last().map_or(0, |step| step.call),
            now,
            start,
            steps,
            files_made,
            plan: BTreeMap::new(),
            fired: Vec::new(),
            crashed: false,
            full: false,
            locks: BTreeMap::new(),
        };
        SimDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// Calls made so far; the next call has the number one higher.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Makes the call with this number fail (or stop the machine).
    pub fn plan(&self, call: u64, fault: Fault) {
        self.state().plan.insert(call, fault);
    }

    /// The planned calls whose fault had an effect.
    pub fn fired(&self) -> Vec<u64> {
        self.state().fired.clone()
    }

    /// While true, every call that needs room fails with ENOSPC.
    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// Stops the machine and returns what a restart finds.
    pub fn crash(&self, survival: Survival, seed: u64) -> SimDisk {
        let history = self.history();
        self.state().crashed = true;
        SimDisk::from_image(&history.image_at(history.len(), survival, seed))
    }

    /// Everything that changed the disk, for building the image of a crash at any of its changes.
    pub fn history(&self) -> History {
        let state = self.state();
        History::new(state.start.clone(), state.steps.clone())
    }

    /// What the disk shows now, as a process that is killed (without power loss) leaves it.
    pub fn image(&self) -> Image {
        self.state().now.image()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers a call and lets its planned fault, if it has one of a fitting class, happen.
    fn enter(&self, operation: &'static str, path: &str, class: Class) -> Result<(MutexGuard<'_, State>, bool)> {
        check_path(path)?;
        let mut state = self.state();
        state.calls += 1;
        let call = state.calls;
        let fault = state.plan.get(&call).copied();
        if fault == Some(Fault::Crash) {
            state.crashed = true;
            state.fired.push(call);
        }
        if state.crashed {
            return Err(Error::io(operation, path, io::Error::other("the simulated machine has crashed")));
        }
        let full = state.full.then_some(Fault::NoSpace);
        let Some(fault) = fault.or(full).filter(|fault| class.suffers(*fault)) else { return Ok((state, false)) };
        state.fired.push(call);
        match fault {
            Fault::Short => Ok((state, true)),
            Fault::NoSpace => Err(os_error(operation, path, ENOSPC)),
            Fault::TooManyFiles => Err(os_error(operation, path, EMFILE)),
            Fault::SyncErrorDropped => {
                state.drop_unsynced(class, path);
                Err(os_error(operation, path, EIO))
            }
            Fault::SyncErrorKept | Fault::ReadError | Fault::Crash => Err(os_error(operation, path, EIO)),
        }
    }
}

impl Default for SimDisk {
    fn default() -> SimDisk {
        SimDisk::new()
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &str) -> Result<Box<dyn DiskFile>> {
        let (state, _) = self.enter("open", path, Class::Open)?;
        match state.now.node(path) {
            Some(Node::File(file)) => Ok(self.file(file, path)),
            Some(Node::Directory) => Err(os_error("open", path, EISDIR)),
            None => Err(os_error("open", path, ENOENT)),
        }
    }

    fn create_new(&self, path: &str) -> Result<Box<dyn DiskFile>> {
        let (mut state, _) = self.enter("create", path, Class::Create)?;
        state.need_parent("create", path)?;
        if state.now.node(path).is_some() {
            return Err(os_error("create", path, EEXIST));
        }
        let file = state.make_file(path);
        Ok(self.file(file, path))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        check_path(to)?;
        let (mut state, _) = self.enter("rename", from, Class::Create)?;
        state.need_parent("rename", to)?;
        match (state.now.node(from), state.now.node(to)) {
            (None, _) => Err(os_error("rename", from, ENOENT)),
            (Some(Node::Directory), _) | (_, Some(Node::Directory)) => Err(os_error("rename", from, EISDIR)),
            (Some(Node::File(file)), _) => {
                state.change(Change::Rename { from: from.to_owned(), to: to.to_owned(), file });
                Ok(())
            }
        }
    }

    fn remove(&self, path: &str) -> Result<()> {
        let (mut state, _) = self.enter("remove", path, Class::Other)?;
        match state.now.node(path) {
            None => Err(os_error("remove", path, ENOENT)),
            Some(Node::Directory) => Err(os_error("remove", path, EISDIR)),
            Some(Node::File(_)) => {
                state.change(Change::Unlink { path: path.to_owned() });
                Ok(())
            }
        }
    }

    fn list(&self, dir: &str) -> Result<Vec<String>> {
        let (state, _) = self.enter("list", dir, Class::List)?;
        Ok(state.now.names_in(dir))
    }

    fn create_dir(&self, dir: &str) -> Result<()> {
        let (mut state, _) = self.enter("create directory", dir, Class::Create)?;
        let ends = dir.match_indices('/').map(|(at, _)| at).chain([dir.len()]);
        for end in ends.filter(|end| *end > 0) {
            match state.now.node(&dir[..end]) {
                Some(Node::Directory) => {}
                Some(Node::File(_)) => return Err(os_error("create directory", dir, EEXIST)),
                None => state.change(Change::MakeDirectory { path: dir[..end].to_owned() }),
            }
        }
        Ok(())
    }

    fn remove_dir(&self, dir: &str) -> Result<()> {
        let (mut state, _) = self.enter("remove directory", dir, Class::Other)?;
        match state.now.node(dir) {
            None => Err(os_error("remove directory", dir, ENOENT)),
            Some(Node::File(_)) => Err(os_error("remove directory", dir, ENOTDIR)),
            Some(Node::Directory) if !state.now.names_in(dir).is_empty() => {
                Err(os_error("remove directory", dir, ENOTEMPTY))
            }
            Some(Node::Directory) => {
                state.change(Change::Unlink { path: dir.to_owned() });
                Ok(())
            }
        }
    }

    fn sync_dir(&self, dir: &str) -> Result<()> {
        let (mut state, _) = self.enter("sync directory", dir, Class::SyncDirectory)?;
        if state.now.node(dir) != Some(Node::Directory) {
            return Err(os_error("sync directory", dir, ENOENT));
        }
        state.change(Change::SyncDirectory { path: dir.to_owned() });
        Ok(())
    }

    fn lock(&self, path: &str, holder: &str) -> Result<Box<dyn DiskLock>> {
        let (mut state, _) = self.enter("lock", path, Class::Create)?;
        state.need_parent("lock", path)?;
        if let Some(present) = state.locks.get(path) {
            return Err(Error::new(ErrorKind::Conflict, format!("lock {path}: held by {present}")));
        }
        let file = match state.now.node(path) {
            Some(Node::File(file)) => file,
            Some(Node::Directory) => return Err(os_error("lock", path, EISDIR)),
            None => state.make_file(path),
        };
        state.change(Change::SetLen { file, len: 0 });
        state.change(Change::Write { file, offset: 0, bytes: holder.as_bytes().into() });
        state.locks.insert(path.to_owned(), holder.to_owned());
        Ok(Box::new(SimLock { disk: self.clone(), path: path.to_owned() }))
    }
}

impl SimDisk {
    fn file(&self, file: FileId, path: &str) -> Box<dyn DiskFile> {
        Box::new(SimFile { disk: self.clone(), file, path: path.to_owned() })
    }
}

impl State {
    fn change(&mut self, change: Change) {
        self.now.apply(&change);
        self.steps.push(Step { call: self.calls, change });
    }

    fn make_file(&mut self, path: &str) -> FileId {
        self.files_made += 1;
        let file = self.files_made;
        self.change(Change::Link { path: path.to_owned(), file });
        file
    }

    fn need_parent(&self, operation: &'static str, path: &str) -> Result<()> {
        match self.now.node(parent(path)) {
            Some(Node::Directory) => Ok(()),
            _ => Err(os_error(operation, path, ENOENT)),
        }
    }

    /// A failed sync whose pages were marked clean: what was not durable never will be, though everyone still sees it.
    fn drop_unsynced(&mut self, class: Class, path: &str) {
        match class {
            Class::Sync(file) => self.change(Change::DropUnsynced { file }),
            _ => self.change(Change::DropNames { path: path.to_owned() }),
        }
    }
}

struct SimFile {
    disk: SimDisk,
    file: FileId,
    path: String,
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let (state, short) = self.disk.enter("read", &self.path, Class::Read)?;
        let wanted = if short { buffer.len().div_ceil(2) } else { buffer.len() };
        let content = state.now.content(self.file);
        let rest = usize::try_from(offset).ok().and_then(|offset| content.get(offset..)).unwrap_or(&[]);
        let count = rest.len().min(wanted);
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize> {
        let (mut state, short) = self.disk.enter("write", &self.path, Class::Write)?;
        let count = if short { bytes.len().div_ceil(2) } else { bytes.len() };
        if usize::try_from(offset)
            .ok()
            .and_then(|offset| offset.checked_add(count))
            .is_none_or(|end| end > FILE_BYTES_MAX)
        {
            return Err(os_error("write", &self.path, EFBIG));
        }
        if count > 0 {
            state.change(Change::Write { file: self.file, offset, bytes: bytes[..count].into() });
        }
        Ok(count)
    }

    fn sync_data(&self) -> Result<()> {
        let (mut state, _) = self.disk.enter("sync", &self.path, Class::Sync(self.file))?;
        state.change(Change::SyncFile { file: self.file });
        Ok(())
    }

    fn len(&self) -> Result<u64> {
        let (state, _) = self.disk.enter("length of", &self.path, Class::Other)?;
        Ok(state.now.content(self.file).len() as u64)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let (mut state, _) = self.disk.enter("set the length of", &self.path, Class::Write)?;
        if usize::try_from(len).ok().is_none_or(|len| len > FILE_BYTES_MAX) {
            return Err(os_error("set the length of", &self.path, EFBIG));
        }
        state.change(Change::SetLen { file: self.file, len });
        Ok(())
    }

    fn path(&self) -> &str {
        &self.path
    }
}

struct SimLock {
    disk: SimDisk,
    path: String,
}

impl DiskLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.state().locks.remove(&self.path);
    }
}

/// What a call needs, which decides the faults that it can suffer.
#[derive(Clone, Copy)]
enum Class {
    Open,
    Create,
    Read,
    Write,
    List,
    Sync(FileId),
    SyncDirectory,
    Other,
}

impl Class {
    fn suffers(self, fault: Fault) -> bool {
        match fault {
            Fault::Crash => true,
            Fault::SyncErrorKept | Fault::SyncErrorDropped => matches!(self, Class::Sync(_) | Class::SyncDirectory),
            Fault::NoSpace => matches!(self, Class::Create | Class::Write),
            Fault::TooManyFiles => matches!(self, Class::Open | Class::Create | Class::List | Class::SyncDirectory),
            Fault::ReadError => matches!(self, Class::Read | Class::List),
            Fault::Short => matches!(self, Class::Read | Class::Write),
        }
    }
}

fn os_error(operation: &'static str, path: &str, code: i32) -> Error {
    Error::io(operation, path, io::Error::from_raw_os_error(code))
}

const ENOENT: i32 = 2;
const EIO: i32 = 5;
const EEXIST: i32 = 17;
const ENOTDIR: i32 = 20;
const EISDIR: i32 = 21;
const EMFILE: i32 = 24;
const EFBIG: i32 = 27;
const ENOSPC: i32 = 28;
const ENOTEMPTY: i32 = 39;
/// No file of a simulated disk is larger: memory stays bounded when an offset is garbage.
const FILE_BYTES_MAX: usize = 1 << 30;
