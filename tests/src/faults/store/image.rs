//! The files of a directory in memory, so that damage is a change of data and a trial writes a directory of its own.
//!
//! Invariants: a file's end of zeros (the journal of the store is made at its full size) is kept as a length, not as bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

/// What a directory holds, by path below it.
#[derive(Clone, Default)]
pub struct Image {
    /// Its files.
    pub files: BTreeMap<String, Content>,
    /// Its directories, empty ones too.
    pub dirs: BTreeSet<String>,
}

/// A file.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Content {
    /// Its bytes, up to the zeros at the end.
    pub bytes: Vec<u8>,
    /// Its length: zeros follow the bytes.
    pub len: u64,
}

impl Content {
    /// A file of just these bytes.
    pub fn of(bytes: Vec<u8>) -> Content {
        let len = bytes.len() as u64;
        Content { bytes, len }
    }
}

impl Image {
    /// Reads a directory, which may be in use: a file that is removed meanwhile makes it start again.
    pub fn of(dir: &Path) -> Image {
        loop {
            let mut image = Image::default();
            match image.read(dir, "") {
                Ok(()) => return image,
                Err(error) if error.kind() == io::ErrorKind::NotFound && dir.exists() => {}
                Err(error) => panic!("{}: {error}", dir.display()),
            }
        }
    }

    fn read(&mut self, dir: &Path, below: &str) -> io::Result<()> {
        for entry in fs::read_dir(dir.join(below))? {
            let entry = entry?;
            let name = entry.file_name().into_string().expect("names are UTF-8");
            let path = if below.is_empty() { name } else { format!("{below}/{name}") };
            if entry.file_type()?.is_dir() {
                self.dirs.insert(path.clone());
                self.read(dir, &path)?;
            } else {
                self.files.insert(path.clone(), read(&dir.join(&path))?);
            }
        }
        Ok(())
    }

    /// Makes the directory.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        for path in &self.dirs {
            fs::create_dir_all(dir.join(path))?;
        }
        for (path, content) in &self.files {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().expect("it is below the directory"))?;
            let mut file = File::create(path)?;
            file.write_all(&content.bytes)?;
            file.set_len(content.len)?;
        }
        Ok(())
    }

    /// Puts what another image has at a directory and below it in place of what is there.
    pub fn replace_dir(&mut self, dir: &str, other: &Image) {
        self.remove_dir(dir);
        let files = other.files.iter().filter(|(path, _)| is_in(path, dir));
        self.files.extend(files.map(|(path, content)| (path.clone(), content.clone())));
        self.dirs.extend(other.dirs.iter().filter(|path| is_in(path, dir)).cloned());
    }

    /// Removes a directory and everything below it.
    pub fn remove_dir(&mut self, dir: &str) {
        self.files.retain(|path, _| !is_in(path, dir));
        self.dirs.retain(|path| !is_in(path, dir));
    }
}

fn is_in(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Holes read as zeros: only what comes before them is read.
fn read(path: &Path) -> io::Result<Content> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut bytes = Vec::new();
    let mut block = [0; 64 << 10];
    loop {
        let count = file.read(&mut block)?;
        bytes.extend_from_slice(&block[..count]);
        let zeros = block[..count].iter().all(|byte| *byte == 0);
        if count == 0 || (zeros && len > SPARSE_BYTES) {
            break;
        }
    }
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes.truncate(used);
    Ok(Content { bytes, len })
}

/// Files above this are made at their full size and used from the front.
const SPARSE_BYTES: u64 = 16 << 20;
