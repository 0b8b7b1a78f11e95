//! One segment, read from its first byte to its last: where its groups are, where holes are, what follows them.
//!
//! Invariants: nothing is written; a group behind a hole counts only if it begins with a sound frame of a later write, so its
//! position is known; memory holds one group at a time.

use std::sync::Arc;

use crate::{
    disk::{Disk, DiskFile},
    error::Result,
    id::{ChainHash, Position},
    log::{
        footer::{Part, Trailer},
        frame::{self, Draft, FRAME_MAGIC, FrameHeader, HEADER_LEN, MARK, Salt},
        header::{BLOCK_LEN, SegmentHeader},
        scan::{From, GroupReader, RawGroup, Step, read_up_to},
        survey::{read_trailer, section_of},
    },
};

/// A segment file.
pub(super) struct Opened {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) path: Arc<str>,
    pub(super) len: u64,
    pub(super) header: SegmentHeader,
    /// Only one of the two copies of the header is sound.
    pub(super) header_hurt: bool,
    pub(super) trailer: Option<Trailer>,
}

/// A place where frames should be and are not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Hole {
    /// The first damaged byte, and where sound frames go on, if they do.
    pub(super) bytes: (u64, Option<u64>),
    /// The position that should come there, the chained hash before it, the ordinal of its write.
    pub(super) next: Position,
    pub(super) chain: ChainHash,
    pub(super) sequence: u64,
    /// The position after it, and the ordinal of the write there, if frames go on.
    pub(super) resumes: Option<(Position, u64)>,
    pub(super) why: String,
}

impl Hole {
    /// How many marks stood here, if it was marks and nothing else: they are of one length and move neither positions nor chain.
    pub(super) fn marks(&self) -> Option<u64> {
        let ((start, end), (position, sequence)) = ((self.bytes.0, self.bytes.1?), self.resumes?);
        let count = sequence.checked_sub(self.sequence)?;
        let fits = count.checked_mul(frame::frame_len(0) as u64) == Some(end - start);
        (fits && count > 0 && position == self.next).then_some(count)
    }
}

/// Appends `count` marks that stand before the event at `next`.
pub(super) fn append_marks(
    into: &mut Vec<u8>,
    salt: &Salt,
    (next, chain): (Position, ChainHash),
    (first, count): (u64, u64),
) {
    for sequence in first..first + count {
        let draft = Draft { flags: MARK, count: 0, first: next, sequence, time_ms: 0, previous: chain };
        frame::append(into, salt, &draft, &[]);
    }
}

/// What a walk saw.
pub(super) struct Walked {
    pub(super) holes: Vec<Hole>,
    /// After the last group.
    pub(super) next: Position,
    pub(super) chain: ChainHash,
    /// Ordinal of the write after the last one.
    pub(super) sequence: u64,
    /// Where the groups end.
    pub(super) end: u64,
    /// Why they end there.
    pub(super) why: String,
    pub(super) events: u64,
}

/// Opens a segment and reads header and trailer. `Corrupt` if neither copy of the header is sound.
pub(super) fn open(disk: &dyn Disk, path: &str) -> Result<Opened> {
    let file: Arc<dyn DiskFile> = disk.open(path)?.into();
    let len = file.len()?;
    let mut block = [0; BLOCK_LEN];
    let got = read_up_to(&*file, &mut block, 0)?;
    let header = SegmentHeader::decode(&block[..got], path)?;
    let header_hurt = block[..] != header.encode()[..];
    let trailer =
        read_trailer(&*file, len, &mut 0)?.filter(|trailer| (trailer.first, trailer.log) == (header.first, header.log));
    Ok(Opened { file, path: path.into(), len, header, header_hurt, trailer })
}

impl Opened {
    /// Walks every group; `each` gets those that decode. Ends where the footer says, or at `boundary`, where the next segment
    /// begins (its group may have been moved there), whichever comes first.
    pub(super) fn walk(
        &self,
        boundary: Option<Position>,
        each: &mut dyn FnMut(&RawGroup) -> Result<()>,
    ) -> Result<Walked> {
        let limit = self.trailer.as_ref().map_or(self.len, |trailer| trailer.frames_end);
        let boundary = self.boundary(boundary);
        let begin = From {
            offset: BLOCK_LEN as u64,
            next: self.header.first,
            sequence: self.header.sequence,
            chain: Some(self.header.previous),
        };
        let mut reader = self.reader(begin, limit);
        let mut walked = Walked {
            holes: Vec::new(),
            next: self.header.first,
            chain: self.header.previous,
            sequence: self.header.sequence,
            end: BLOCK_LEN as u64,
            why: String::new(),
            events: 0,
        };
        loop {
            if boundary.is_some_and(|boundary| reader.next >= boundary) {
                walked.why = "the next segment begins here".to_owned();
                return Ok(walked);
            }
            let hole = match reader.step()? {
                Step::Group(group) => match self.take(&group, &mut walked, each)? {
                    None => continue,
                    // Unharmed as bytes, but not what a writer writes.
                    Some(why) => Hole {
                        bytes: (group.offset, Some(group.end)),
                        next: group.first,
                        chain: walked.chain,
                        sequence: group.sequence,
                        resumes: Some((group.last.next(), group.sequence + 1)),
                        why,
                    },
                },
                Step::Mark { end } => {
                    walked.end = end;
                    walked.sequence += 1;
                    continue;
                }
                Step::Stop(why) => match self.resume(&reader, limit)? {
                    Some((offset, header)) => {
                        let hole = Hole {
                            bytes: (reader.offset, Some(offset)),
                            next: reader.next,
                            chain: walked.chain,
                            sequence: reader.sequence,
                            resumes: Some((header.first, header.sequence)),
                            why: why.to_owned(),
                        };
                        let (next, sequence) = (header.first, header.sequence);
                        let from = From { offset, next, sequence, chain: Some(header.previous) };
                        (walked.next, walked.chain, walked.sequence) = (next, header.previous, sequence);
                        reader = self.reader(from, limit);
                        hole
                    }
                    None => {
                        walked.why = why.to_owned();
                        return Ok(walked);
                    }
                },
            };
            walked.holes.push(hole);
        }
    }

    /// The position behind the last one that belongs to this segment, if that is known.
    pub(super) fn boundary(&self, next: Option<Position>) -> Option<Position> {
        next.into_iter().chain(self.trailer.as_ref().map(|trailer| trailer.last.next())).min()
    }

    /// Counts a group; why it does not decode, if it does not.
    fn take(
        &self,
        group: &RawGroup,
        walked: &mut Walked,
        each: &mut dyn FnMut(&RawGroup) -> Result<()>,
    ) -> Result<Option<String>> {
        let decoded = match each(group) {
            Ok(()) => None,
            Err(error) if error.is_corrupt() => Some(error.to_string()),
            Err(error) => return Err(error),
        };
        if decoded.is_none() {
            walked.events += group.last.0 - group.first.0 + 1;
        }
        (walked.next, walked.chain, walked.end) = (group.last.next(), group.chain, group.end);
        walked.sequence = group.sequence + 1;
        Ok(decoded)
    }

    fn reader(&self, from: From, limit: u64) -> GroupReader {
        GroupReader::new(self.file.clone(), self.path.clone(), self.header.salt, from, limit)
    }

    /// The first whole frame of a later write behind where a walk stopped. Frames of the damaged write itself share its ordinal.
    fn resume(&self, stopped: &GroupReader, limit: u64) -> Result<Option<(u64, FrameHeader)>> {
        let mut found = None;
        self.headers((stopped.offset, limit), &mut |offset, header| {
            let later = header.sequence > stopped.sequence && header.first >= stopped.next;
            if later && self.whole(offset, &header, limit)? {
                found = Some((offset, header));
            }
            Ok(found.is_none())
        })?;
        Ok(found)
    }

    /// The position behind the last event that a frame of a later write names, which begins behind where the groups end. Its own
    /// body may be damaged too: that it was begun proves that what stood before it had been synced.
    pub(super) fn claimed_beyond(&self, walked: &Walked) -> Result<Option<Position>> {
        let mut next = None;
        self.headers((walked.end, self.len), &mut |_, header| {
            if header.sequence > walked.sequence && header.first >= walked.next {
                next = next.max(Some(Position(header.first.0 + u64::from(header.count))));
            }
            Ok(true)
        })?;
        Ok(next)
    }

    /// Every sound frame header in a part of the file, until `each` answers false.
    fn headers(&self, (from, to): (u64, u64), each: &mut dyn FnMut(u64, FrameHeader) -> Result<bool>) -> Result<()> {
        let mut window = vec![0; WINDOW_BYTES];
        let mut at = from;
        while at < to {
            let wanted = usize::try_from(to - at).unwrap_or(usize::MAX).min(window.len());
            let got = read_up_to(&*self.file, &mut window[..wanted], at)?;
            for start in memchr::memmem::find_iter(&window[..got], &FRAME_MAGIC) {
                let Some(header) = frame::parse_header(&self.header.salt, &window[start..got]) else { continue };
                if !each(at + start as u64, header)? {
                    return Ok(());
                }
            }
            if got < window.len() {
                return Ok(());
            }
            // Windows overlap by a header, so that one across the border is seen.
            at += (window.len() - HEADER_LEN.next_multiple_of(frame::ALIGN)) as u64;
        }
        Ok(())
    }

    fn whole(&self, offset: u64, header: &FrameHeader, limit: u64) -> Result<bool> {
        if u64::from(header.len) > limit - offset {
            return Ok(false);
        }
        let mut bytes = vec![0; usize::try_from(header.len).unwrap_or(0)];
        let got = read_up_to(&*self.file, &mut bytes, offset)?;
        Ok(got == bytes.len() && frame::check_body(header, &bytes).is_ok())
    }

    /// Whether every section of the footer is sound.
    pub(super) fn footer_sound(&self) -> Result<bool> {
        let Some(trailer) = &self.trailer else { return Ok(false) };
        for part in [Part::Index, Part::Pushes, Part::State] {
            if section_of(&*self.file, trailer, part, &mut 0)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Bytes of one read while looking for the next frame.
const WINDOW_BYTES: usize = 256 << 10;
