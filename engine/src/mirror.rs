//! Opening a bucket log: the bucket is the truth, the log directory a copy of it that this server reads from.
//!
//! Invariants: what is kept of the copy was sealed here and has the chain that the bucket has; everything else comes from the
//! bucket; nothing local goes before it is known that the bucket has it; nothing in the bucket is written but, once and
//! for all servers, its mark.

use std::sync::Arc;

use crate::{
    clock::random16,
    disk::{Disk, DiskFile, DiskLock, write_all_at},
    engine::{OpenReport, Parts, SegmentRule, Tail},
    error::{Error, ErrorKind, Result},
    id::{LogId, Position},
    log::{
        bucket::BucketLog,
        files::{self, LOG_DIR, LogFiles, remove_if_there, sync, sync_log_dir},
        header::{BLOCK_LEN, SegmentHeader, position_of_name, segment_name},
        published::Segment,
        refold::{self, Fold},
        repair,
        scan::{Step, look_beyond},
        segment::{Active, segment_capacity, shared_salt},
        survey::{Found, Survey, survey, survey_sealed},
    },
    recover::{self, Opened},
    store::{ObjectStore, StoreKey},
};

/// Opens the log of `parts.store`, or creates it; `lock` holds the directory of its copy.
pub(crate) fn open(parts: &Parts, lock: Box<dyn DiskLock>, rule: SegmentRule) -> Result<(Opened, BucketLog)> {
    let disk = &*parts.disk;
    let log = log_of(parts)?;
    let mut bytes_read = 0;
    let kept = survey_sealed(disk, log, &mut bytes_read)?;
    let mut bucket = sealed_like(parts, log, &kept)?;
    check_archived(disk, bucket.floor().last)?;
    let rule = rule_of(&*parts.store, rule)?;
    discard_unsealed(disk, &kept)?;
    fetch_sealed(parts, &mut bucket, &kept)?;

    let mut found = survey_sealed(disk, log, &mut bytes_read)?;
    let (after, mut fold) = recover::checkpointed(disk, &mut found, &mut bytes_read)?;
    for segment in &found.segments[after..] {
        let Some(trailer) = &segment.trailer else { continue };
        bytes_read += refold::walk_copy(disk, segment, trailer, &mut fold)?;
    }
    if let Some(damage) = found.damage {
        return Err(refold::damaged_copy(&damage.file, damage.offset, &damage.message));
    }
    let (active, file, segment) =
        begin_segment(disk, log, &fold, segment_capacity(found.segments.len() as u64, rule.bytes))?;
    let mut segments = recover::shown(&found.segments, &fold);
    segments.push(segment);
    // Only now it is a copy: durably, or the next opening would ask for a proof that nobody can give any more.
    remove_if_there(disk, files::ANCHOR)?;
    sync_log_dir(disk)?;
    let report = OpenReport { log, durable: fold.durable, tail: Tail::Clean, unclean: false, bytes_read };
    let mut handover = recover::handover(log, fold, active, segments.len());
    handover.shared = Some(rule);
    let files = LogFiles::new(parts.disk.clone(), file);
    Ok((Opened { handover, read_only: None, files, segments, lock, report }, bucket))
}

/// The log that the bucket holds; a new one if it holds none. Of servers that start at the same time, one names it.
fn log_of(parts: &Parts) -> Result<LogId> {
    let key = StoreKey::mark();
    let mine = LogId::from_random(random16(&*parts.random)?);
    if let Some(log) = read_mark(&*parts.store)? {
        return Ok(log);
    }
    // Whatever the answer was, the mark says whose log it is.
    let created = parts.store.create(&key, format!("{mine}\n").as_bytes());
    let lost = || created.err().unwrap_or_else(|| Error::new(ErrorKind::Unavailable, format!("{key} is gone again")));
    read_mark(&*parts.store)?.ok_or_else(lost)
}

/// The log that a bucket belongs to; `None` if to none.
pub(crate) fn read_mark(store: &dyn ObjectStore) -> Result<Option<LogId>> {
    let key = StoreKey::mark();
    let Some(text) = read_text(store, &key)? else { return Ok(None) };
    let log = text.trim().parse().map_err(|_| Error::corrupt(key.as_str(), 0, "it does not name a log"))?;
    Ok(Some(log))
}

/// Where the log's segments end: as the bucket says, or as `mine` says from now on.
fn rule_of(store: &dyn ObjectStore, mine: SegmentRule) -> Result<SegmentRule> {
    let key = StoreKey::shared();
    let text = match read_text(store, &key)? {
        Some(text) => text,
        None => {
            let text = format!("segment_bytes {}\nsegment_slots {}\n", mine.bytes, mine.slots);
            let created = store.create(&key, text.as_bytes());
            let lost =
                || created.err().unwrap_or_else(|| Error::new(ErrorKind::Unavailable, format!("{key} is gone again")));
            read_text(store, &key)?.ok_or_else(lost)?
        }
    };
    let value = |name: &str, max: u64| -> Option<u64> {
        let said = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        said.filter(|value| (1..=max).contains(value))
    };
    let rule = value("segment_bytes", RULE_BYTES_MAX).zip(value("segment_slots", RULE_SLOTS_MAX));
    let rule = rule.map(|(bytes, slots)| SegmentRule { bytes, slots });
    rule.ok_or_else(|| {
        let message = format!(
            "it does not say where segments end: segment_bytes (at most {RULE_BYTES_MAX}) and segment_slots (at most \
             {RULE_SLOTS_MAX})"
        );
        Error::corrupt(key.as_str(), 0, message)
    })
}

fn read_text(store: &dyn ObjectStore, key: &StoreKey) -> Result<Option<String>> {
    match store.read_tail(key, MARK_BYTES_MAX) {
        Err(error) if error.is_not_found() => Ok(None),
        read => {
            let (bytes, size) = read?;
            if size > MARK_BYTES_MAX {
                let message = format!("it is longer than the limit of {MARK_BYTES_MAX} bytes");
                return Err(Error::corrupt(key.as_str(), MARK_BYTES_MAX, message));
            }
            Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
        }
    }
}

/// The bucket's log with its floor behind the newest segment that both have; `Conflict` if the copy is of another history.
pub(crate) fn sealed_like(parts: &Parts, log: LogId, kept: &Survey) -> Result<BucketLog> {
    let mut bucket = BucketLog::new(parts.store.clone(), parts.random.clone(), log);
    let trailers = kept.segments.iter().rev().filter_map(|segment| segment.trailer.as_ref());
    let sealed = trailers.map(|trailer| (trailer.first, trailer.last, trailer.chain));
    bucket.begin_behind(sealed)?;
    Ok(bucket)
}

/// A directory that was a log of its own becomes a copy only if the bucket has all of it. What was written as a copy may go: its salt
/// tells it. Of the rest, what is sealed must be found in the bucket (`archived`: up to where both have it), and what is not
/// must be empty; positions alone prove nothing, since a log that was restored elsewhere has the same ones.
fn check_archived(disk: &dyn Disk, archived: Position) -> Result<()> {
    let own_once = files::has_anchor(disk)?;
    let own = match survey(disk) {
        // A copy without its beginning is brought again.
        Err(error) if error.is_corrupt() && !own_once => return Ok(()),
        own => own?,
    };
    let refused = |path: &str, why: &str| {
        let message = format!(
            "{path} {why}, and it was not written as a copy of the bucket's log: serve the directory once with --bucket alone \
             and stop it with SIGTERM, so that the bucket gets the rest; if it is given up, move {LOG_DIR}/ away"
        );
        Error::new(ErrorKind::Conflict, message)
    };
    for segment in &own.segments {
        let header = &segment.header;
        let copied = header.salt == shared_salt(header.log, header.first, header.previous);
        match &segment.trailer {
            _ if copied => {}
            // Whatever is sealed stays here, so only who had an end of his own is asked.
            Some(trailer) if trailer.last <= archived || !own_once => {}
            Some(_) => return Err(refused(&segment.path, "is not in the bucket")),
            None if is_empty(disk, segment)? => {}
            None => return Err(refused(&segment.path, "holds events that are not sealed")),
        }
    }
    match own.damage.filter(|_| own_once) {
        Some(damage) => Err(refused(&damage.file, &damage.message)),
        None => Ok(()),
    }
}

/// No group stands in it, nor anything else but a mark.
fn is_empty(disk: &dyn Disk, segment: &Found) -> Result<bool> {
    let mut reader = refold::reader_of(disk, segment)?;
    loop {
        match reader.step()? {
            Step::Group(_) => return Ok(false),
            Step::Mark { .. } => {}
            Step::Stop(_) => break,
        }
    }
    let rest = look_beyond(&*segment.open(disk)?, &segment.header.salt, reader.offset, reader.sequence)?;
    Ok(rest.nonzero_end == 0)
}

/// Removes what is not sealed, newest first: what the bucket has of it comes from there.
pub(crate) fn discard_unsealed(disk: &dyn Disk, kept: &Survey) -> Result<()> {
    remove_if_there(disk, files::SPARE)?;
    let names = disk.list(LOG_DIR)?;
    let firsts = names.iter().filter_map(|name| position_of_name(name)).rev();
    let beyond = firsts.filter(|first| kept.segments.iter().all(|segment| segment.header.first != *first));
    for first in beyond {
        disk.remove(&format!("{LOG_DIR}/{}", segment_name(first)))?;
    }
    sync_log_dir(disk)
}

/// Copies the sealed segments that are not here, each whole and durable before the next.
pub(crate) fn fetch_sealed(parts: &Parts, bucket: &mut BucketLog, kept: &Survey) -> Result<()> {
    let mut next = kept.segments.last().and_then(|last| last.trailer.as_ref()).map_or(Position(1), |t| t.last.next());
    bucket.raise_floor()?;
    while next <= bucket.floor().last {
        let (disk, key) = (&*parts.disk, StoreKey::segment(next));
        let size = parts.store.size(&key)?;
        remove_if_there(disk, files::SPARE)?;
        let file = disk.create_new(files::SPARE)?;
        let mut at = 0;
        while at < size {
            let bytes = parts.store.read(&key, at, COPY_BYTES.min(size - at))?;
            write_all_at(&*file, &bytes, at)?;
            at += bytes.len() as u64;
        }
        sync(&*file)?;
        disk.rename(files::SPARE, key.as_str())?;
        sync_log_dir(disk)?;
        let trailer = bucket.sealed(next)?.ok_or_else(|| Error::not_found(format!("{key} is gone again")))?;
        tracing::info!(%key, bytes = size, "a sealed segment was copied from the bucket");
        next = trailer.last.next();
    }
    Ok(())
}

/// A new, empty segment behind what is sealed, as every server makes it.
fn begin_segment(
    disk: &dyn Disk,
    log: LogId,
    fold: &Fold,
    capacity: u64,
) -> Result<(Active, Arc<dyn DiskFile>, Segment)> {
    let (first, previous) = (fold.durable.position.next(), fold.durable.chain);
    let header = SegmentHeader {
        log,
        first,
        sequence: fold.sequence,
        previous,
        salt: shared_salt(log, first, previous),
        capacity,
    };
    let file = repair::named(disk, &header, &header.encode())?;
    let active = Active {
        first,
        sequence: header.sequence,
        salt: header.salt,
        capacity: header.capacity,
        end: BLOCK_LEN as u64,
        index: Vec::new(),
    };
    Ok((active, file, Segment::empty(header)))
}

/// Bytes copied at a time.
const COPY_BYTES: u64 = 8 << 20;
/// A segment is read whole by who was behind, and zero-filled by everybody.
const RULE_BYTES_MAX: u64 = 256 << 20;
const RULE_SLOTS_MAX: u64 = 1 << 20;
/// No more of a mark is read.
const MARK_BYTES_MAX: u64 = 256;
