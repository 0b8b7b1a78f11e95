//! Which segments there are and whether they follow each other: headers and trailers only, whatever the log's size.
//!
//! Invariants: nothing is written; a segment that does not continue the one before it ends the readable prefix, with the
//! exact file; a newer format refuses the whole log.

use std::sync::Arc;

use super::{
    fields::size,
    files::LOG_DIR,
    footer::{Part, TRAILER_LEN, Trailer},
    frame::HEADER_LEN,
    header::{BLOCK_LEN, SegmentHeader, position_of_name, segment_name},
    scan::read_up_to,
};
use crate::{
    disk::{Disk, DiskFile},
    error::{Error, ErrorKind, Result},
    id::{LogId, Position},
};

/// One segment file.
pub(crate) struct Found {
    /// `log/seg-….log`
    pub(crate) path: Arc<str>,
    /// Its bytes.
    pub(crate) len: u64,
    /// Its header.
    pub(crate) header: SegmentHeader,
    /// Its trailer, if it has a sound one.
    pub(crate) trailer: Option<Trailer>,
}

impl Found {
    /// Opens the file; not held, because a long log has more segments than a process has descriptors.
    pub(crate) fn open(&self, disk: &dyn Disk) -> Result<Arc<dyn DiskFile>> {
        Ok(disk.open(&self.path)?.into())
    }
}

/// Where the log is damaged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Damage {
    /// In which file.
    pub(crate) file: String,
    /// At which byte.
    pub(crate) offset: u64,
    /// What is wrong.
    pub(crate) message: String,
}

impl Damage {
    pub(crate) fn new(file: impl Into<String>, offset: u64, message: impl Into<String>) -> Damage {
        Damage { file: file.into(), offset, message: message.into() }
    }
}

/// The segments of the readable prefix, and what ended it if it ends early.
#[derive(Default)]
pub(crate) struct Survey {
    pub(crate) segments: Vec<Found>,
    pub(crate) damage: Option<Damage>,
    pub(crate) bytes_read: u64,
}

/// Looks at every segment of the log.
pub(crate) fn survey(disk: &dyn Disk) -> Result<Survey> {
    let names = disk.list(LOG_DIR)?;
    let mut survey = Survey::default();
    for first in names.iter().filter_map(|name| position_of_name(name)) {
        let path = format!("{LOG_DIR}/{}", segment_name(first));
        match look_at(disk, path.clone(), first, &mut survey.bytes_read) {
            Ok(found) => survey.add(found)?,
            Err(error) if error.is_corrupt() && !survey.segments.is_empty() => {
                survey.note(Damage::new(path, error.offset().unwrap_or(0), error.to_string()));
            }
            Err(error) => return Err(error),
        }
    }
    survey.check_end();
    Ok(survey)
}

/// The sealed segments that a log directory begins with, if it is one of `log`; whatever follows them is not looked at.
/// `Conflict` if it is of another log.
pub(crate) fn survey_sealed(disk: &dyn Disk, log: LogId, bytes_read: &mut u64) -> Result<Survey> {
    let mut survey = Survey::default();
    for first in disk.list(LOG_DIR)?.iter().filter_map(|name| position_of_name(name)) {
        let path = format!("{LOG_DIR}/{}", segment_name(first));
        let found = match look_at(disk, path, first, bytes_read) {
            Err(error) if error.is_corrupt() => break,
            found => found?,
        };
        if found.header.log != log {
            let message = format!("{} belongs to log {}, the bucket holds log {log}", found.path, found.header.log);
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        let continues = match survey.segments.last() {
            Some(before) => why_not_after(before, &found).is_none(),
            None => found.header.first == Position(1),
        };
        if !continues || found.trailer.is_none() {
            break;
        }
        survey.segments.push(found);
    }
    Ok(survey)
}

impl Survey {
    fn note(&mut self, damage: Damage) {
        self.damage.get_or_insert(damage);
    }

    /// Adds the next segment if it continues the last one. Later ones are still opened, so that a newer format is seen.
    fn add(&mut self, found: Found) -> Result<()> {
        if self.damage.is_some() {
            return Ok(());
        }
        let Some(before) = self.segments.last() else {
            if found.header.first != Position(1) {
                let message =
                    format!("positions before {} are missing: the first segment is not there", found.header.first);
                return Err(Error::corrupt(&*found.path, 0, message));
            }
            self.segments.push(found);
            return Ok(());
        };
        match why_not_after(before, &found) {
            None => self.segments.push(found),
            Some(message) => self.damage = Some(Damage::new(&*found.path, 0, message)),
        }
        Ok(())
    }

    /// A segment is sealed only after its successor is there.
    fn check_end(&mut self) {
        let ending = self.segments.last().and_then(|last| last.trailer.as_ref());
        if let (None, Some(trailer)) = (&self.damage, ending) {
            let name = segment_name(trailer.last.next());
            self.damage = Some(Damage::new(format!("{LOG_DIR}/{name}"), 0, "the segment that comes next is missing"));
        }
    }
}

/// Reads a section of a segment's footer; `None` if it is damaged.
pub(crate) fn section(disk: &dyn Disk, found: &Found, part: Part, bytes_read: &mut u64) -> Result<Option<Vec<u8>>> {
    let Some(trailer) = &found.trailer else { return Ok(None) };
    section_of(&*found.open(disk)?, trailer, part, bytes_read)
}

/// Reads a section of the footer that `trailer` describes; `None` if it is damaged.
pub(crate) fn section_of(
    file: &dyn DiskFile,
    trailer: &Trailer,
    part: Part,
    bytes_read: &mut u64,
) -> Result<Option<Vec<u8>>> {
    // The trailer accounts for every byte of the file, so the length is bounded by it.
    let (offset, len) = trailer.range(part);
    let mut bytes = vec![0; size(len)];
    let got = read_up_to(file, &mut bytes, offset)?;
    *bytes_read += got as u64;
    Ok((got as u64 == len && trailer.matches(part, &bytes)).then_some(bytes))
}

/// A power loss while a segment is sealed may leave the end of its footer without the rest. Where nothing was written after it,
/// such a footer counts as none, and is written again.
pub(crate) fn forget_torn_footer(disk: &dyn Disk, found: &mut Survey, bytes_read: &mut u64) -> Result<()> {
    let [.., sealed, last] = &mut found.segments[..] else { return Ok(()) };
    let Some(trailer) = sealed.trailer.as_ref().filter(|_| found.damage.is_none()) else { return Ok(()) };
    if nothing_written(&*last.open(disk)?)? && !sections_sound(&*sealed.open(disk)?, trailer, bytes_read)? {
        sealed.trailer = None;
    }
    Ok(())
}

fn sections_sound(file: &dyn DiskFile, trailer: &Trailer, bytes_read: &mut u64) -> Result<bool> {
    for part in [Part::Index, Part::Pushes, Part::State] {
        if section_of(file, trailer, part, bytes_read)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn nothing_written(file: &dyn DiskFile) -> Result<bool> {
    let mut bytes = [0; HEADER_LEN];
    let got = read_up_to(file, &mut bytes, BLOCK_LEN as u64)?;
    Ok(bytes[..got].iter().all(|byte| *byte == 0))
}

/// The trailer at the end of a file, if there is a sound one.
pub(crate) fn read_trailer(file: &dyn DiskFile, len: u64, bytes_read: &mut u64) -> Result<Option<Trailer>> {
    let Some(at) = len.checked_sub(TRAILER_LEN as u64) else { return Ok(None) };
    let mut bytes = [0; TRAILER_LEN];
    let got = read_up_to(file, &mut bytes, at)?;
    *bytes_read += got as u64;
    Ok(Trailer::decode(&bytes[..got], len))
}

fn look_at(disk: &dyn Disk, path: String, first: Position, bytes_read: &mut u64) -> Result<Found> {
    let file: Arc<dyn DiskFile> = disk.open(&path)?.into();
    let len = file.len()?;
    let mut block = [0; BLOCK_LEN];
    let got = read_up_to(&*file, &mut block, 0)?;
    *bytes_read += got as u64;
    let header = SegmentHeader::decode(&block[..got], &path)?;
    if header.first != first {
        return Err(Error::corrupt(path, 0, format!("the header is of the segment that starts at {}", header.first)));
    }
    let trailer =
        read_trailer(&*file, len, bytes_read)?.filter(|trailer| trailer.first == first && trailer.log == header.log);
    Ok(Found { path: path.into(), len, header, trailer })
}

/// Why `found` cannot be the segment after `before`, as far as header and trailer tell.
fn why_not_after(before: &Found, found: &Found) -> Option<String> {
    let LogId(log) = before.header.log;
    if found.header.log.0 != log {
        return Some(format!("the segment belongs to another log ({})", found.header.log));
    }
    let trailer = before.trailer.as_ref()?;
    if found.header.first != trailer.last.next() {
        return Some(format!(
            "positions {} to {} are missing before it",
            trailer.last.next(),
            found.header.first.0 - 1
        ));
    }
    if found.header.previous != trailer.chain || found.header.sequence < trailer.sequence {
        return Some("it does not continue the chain of the segment before it".to_owned());
    }
    None
}
