//! Walking the frames of one segment: group by group, each byte checked before it is believed.
//!
//! Invariants: a group is handed out only whole (every frame unharmed, positions and sequence dense, chain continued);
//! memory holds one group at a time; what stands where the walk stops is described, not judged (`recover` judges).

use std::sync::Arc;

use super::{
    fields::{Fields, size},
    frame::{self, ALIGN, CONTINUES, Draft, FRAME_MAGIC, FrameHeader, HEADER_LEN, Salt},
    slot::ServerId,
};
use crate::{
    disk::DiskFile,
    engine::Group,
    error::{Error, Result},
    event::{Event, codec},
    id::{ChainHash, Position},
    limits::PROPOSAL_BYTES_MAX,
    planted::{self, PlantedBug},
};

/// One group as stored: checked, not decoded.
#[derive(Clone, Debug)]
pub struct RawGroup {
    pub(crate) file: Arc<str>,
    pub(crate) offset: u64,
    pub(crate) end: u64,
    pub(crate) sequence: u64,
    pub(crate) time_ms: u64,
    pub(crate) bodies: Vec<RawBody>,
    pub(crate) first: Position,
    pub(crate) last: Position,
    pub(crate) chain: ChainHash,
    /// Another server that wrote it, if that is known.
    pub(crate) server: Option<ServerId>,
}

/// The events of one frame.
#[derive(Clone, Debug)]
pub(crate) struct RawBody {
    pub(crate) count: u32,
    pub(crate) bytes: Vec<u8>,
}

impl RawGroup {
    /// Position of its first event.
    pub fn first(&self) -> Position {
        self.first
    }

    /// Position of its last event.
    pub fn last(&self) -> Position {
        self.last
    }

    /// Chained hash after it.
    pub fn chain(&self) -> ChainHash {
        self.chain
    }

    /// Bytes it takes in its segment.
    pub fn stored_bytes(&self) -> u64 {
        self.end - self.offset
    }

    /// Decodes the events; `Corrupt` naming file and offset if one is not what a writer writes. For any thread.
    pub fn decode(&self) -> Result<Group> {
        let events = self.decode_events()?.into_iter().map(|(event, _)| event).collect();
        Ok(Group { events, chain: self.chain })
    }

    /// The events with their request fingerprints.
    pub(crate) fn decode_events(&self) -> Result<Vec<(Event, u64)>> {
        let mut events = Vec::new();
        let mut position = self.first;
        for body in &self.bodies {
            let mut fields = Fields::new(&body.bytes);
            for _ in 0..body.count {
                let encoded = fields.u32().and_then(|len| fields.slice(size(u64::from(len))));
                let encoded = encoded.ok_or_else(|| self.corrupt("an event passes the end of its frame"))?;
                events.push(codec::decode(position, encoded).map_err(|error| self.corrupt(error.to_string()))?);
                position = position.next();
            }
            if !fields.is_empty() {
                return Err(self.corrupt("bytes follow the frame's last event"));
            }
        }
        Ok(events)
    }

    /// Appends its frames to `bytes` as they stand in a segment with `salt`, and returns the chained hash after them.
    pub(crate) fn frames(&self, bytes: &mut Vec<u8>, salt: &Salt, mut chain: ChainHash) -> ChainHash {
        let mut first = self.first;
        for (at, body) in self.bodies.iter().enumerate() {
            let flags = if at + 1 == self.bodies.len() { 0 } else { CONTINUES };
            let (count, sequence, time_ms) = (body.count, self.sequence, self.time_ms);
            let draft = Draft { flags, count, first, sequence, time_ms, previous: chain };
            chain = frame::append(bytes, salt, &draft, &body.bytes);
            first = Position(first.0 + u64::from(body.count));
        }
        chain
    }

    fn corrupt(&self, message: impl Into<String>) -> Error {
        Error::corrupt(&*self.file, self.offset, message)
    }
}

/// What the walk met next.
pub(crate) enum Step {
    /// A whole group.
    Group(RawGroup),
    /// A mark: everything before it was synced.
    Mark {
        /// Byte offset after it.
        end: u64,
    },
    /// Nothing whole from here on.
    Stop(&'static str),
}

/// The walk.
pub(crate) struct GroupReader {
    file: Arc<dyn DiskFile>,
    path: Arc<str>,
    salt: Salt,
    /// Where the next group starts.
    pub(crate) offset: u64,
    /// Frames end here at the latest.
    pub(crate) limit: u64,
    /// Position that comes next.
    pub(crate) next: Position,
    /// Ordinal of the write that comes next.
    pub(crate) sequence: u64,
    /// Chained hash so far; `None`: begun in the middle of a segment, believe the first frame.
    pub(crate) chain: Option<ChainHash>,
    buffer: Vec<u8>,
    buffer_at: u64,
    /// Bytes read from the file.
    pub(crate) bytes_read: u64,
}

/// Where a walk begins.
pub(crate) struct From {
    pub(crate) offset: u64,
    pub(crate) next: Position,
    pub(crate) sequence: u64,
    pub(crate) chain: Option<ChainHash>,
}

impl GroupReader {
    /// A walk over `file` (whose name is `path`) from `from` to at most byte `limit`.
    pub(crate) fn new(file: Arc<dyn DiskFile>, path: Arc<str>, salt: Salt, from: From, limit: u64) -> GroupReader {
        GroupReader {
            file,
            path,
            salt,
            offset: from.offset,
            limit,
            next: from.next,
            sequence: from.sequence,
            chain: from.chain,
            buffer: Vec::new(),
            buffer_at: 0,
            bytes_read: 0,
        }
    }

    /// The next group, mark or stop. After a stop the same stop again.
    pub(crate) fn step(&mut self) -> Result<Step> {
        let (mut at, mut next, mut chain) = (self.offset, self.next, self.chain);
        let mut bodies: Vec<RawBody> = Vec::new();
        let mut bytes = 0;
        loop {
            let (header, body, after) = match self.frame(at, next, chain)? {
                Ok(frame) => frame,
                Err(why) => return Ok(Step::Stop(why)),
            };
            at += u64::from(header.len);
            if header.is_mark() {
                if !bodies.is_empty() {
                    return Ok(Step::Stop("a mark stands inside a group"));
                }
                (self.offset, self.chain) = (at, Some(after));
                self.sequence += 1;
                return Ok(Step::Mark { end: at });
            }
            next = Position(next.0 + u64::from(header.count));
            chain = Some(after);
            bytes += body.len() as u64;
            if bytes > PROPOSAL_BYTES_MAX + (1 << 20) {
                return Ok(Step::Stop("a group is larger than any writer makes"));
            }
            bodies.push(RawBody { count: header.count, bytes: body });
            if !header.continues() {
                return Ok(Step::Group(self.take(at, next, after, header.time_ms, bodies)));
            }
        }
    }

    fn take(&mut self, at: u64, next: Position, chain: ChainHash, time_ms: u64, bodies: Vec<RawBody>) -> RawGroup {
        let group = RawGroup {
            file: self.path.clone(),
            offset: self.offset,
            end: at,
            sequence: self.sequence,
            time_ms,
            bodies,
            first: self.next,
            last: Position(next.0 - 1),
            chain,
            server: None,
        };
        (self.offset, self.next, self.chain) = (at, next, Some(chain));
        self.sequence += 1;
        group
    }

    /// One frame at `at`: its header, its body, the chained hash after it; or why there is none.
    #[allow(clippy::type_complexity, reason = "read in one place, named there")]
    fn frame(
        &mut self,
        at: u64,
        next: Position,
        chain: Option<ChainHash>,
    ) -> Result<std::result::Result<(FrameHeader, Vec<u8>, ChainHash), &'static str>> {
        if self.limit.saturating_sub(at) < HEADER_LEN as u64 {
            return Ok(Err("the segment ends"));
        }
        let salt = self.salt;
        let head = self.bytes(at, HEADER_LEN)?;
        let Some(header) = frame::parse_header(&salt, head) else {
            return Ok(Err("no frame starts here"));
        };
        if header.sequence != self.sequence || header.first != next {
            return Ok(Err("the frame is not the one that comes next"));
        }
        let chained = chain.is_none_or(|chain| chain == header.previous);
        if !chained && !planted::is(PlantedBug::WrongChainCheck) {
            return Ok(Err("the frame does not continue the chain"));
        }
        if u64::from(header.len) > self.limit - at {
            return Ok(Err("the frame passes the end of the segment"));
        }
        let frame = self.bytes(at, size(u64::from(header.len)))?;
        if frame.len() < size(u64::from(header.len)) {
            return Ok(Err("the file ends inside the frame"));
        }
        Ok(match frame::check_body(&header, frame) {
            Ok((body, after)) => {
                let body = body.to_vec();
                Ok((header, body, after))
            }
            Err(why) => Err(why),
        })
    }

    /// Up to `count` bytes at `at`, fewer at the end of the file. Reads ahead, so that small frames share one read.
    fn bytes(&mut self, at: u64, count: usize) -> Result<&[u8]> {
        let held = self.buffer_at + self.buffer.len() as u64;
        if at < self.buffer_at || at + count as u64 > held {
            let ahead = (READ_AHEAD as u64).min(self.limit.saturating_sub(at));
            self.buffer.clear();
            self.buffer.resize(count.max(size(ahead)), 0);
            let got = read_up_to(&*self.file, &mut self.buffer, at)?;
            self.buffer.truncate(got);
            self.buffer_at = at;
            self.bytes_read += got as u64;
        }
        let start = size(at - self.buffer_at);
        let end = (start + count).min(self.buffer.len());
        Ok(&self.buffer[start..end])
    }
}

/// What stands after the last whole group of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Rest {
    /// Offset after the last byte that is not zero; 0 if all are zero.
    pub(crate) nonzero_end: u64,
    /// A frame of a later write: its offset.
    pub(crate) later: Option<u64>,
    /// Bytes looked at.
    pub(crate) bytes_read: u64,
}

/// Looks at everything from `from` to the end of the file: is any byte not zero, and does a sound frame of a write after
/// `sequence` stand there? A later write began only after `sequence` was synced, so such a frame proves damage.
pub(crate) fn look_beyond(file: &dyn DiskFile, salt: &Salt, from: u64, sequence: u64) -> Result<Rest> {
    let mut rest = Rest::default();
    let mut window = vec![0; READ_AHEAD];
    let mut at = from;
    loop {
        let got = read_up_to(file, &mut window, at)?;
        rest.bytes_read += got as u64;
        let bytes = &window[..got];
        if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
            rest.nonzero_end = at + last as u64 + 1;
        }
        let later = |header: FrameHeader| header.sequence > sequence;
        let found = memchr::memmem::find_iter(bytes, &FRAME_MAGIC)
            .find(|start| frame::parse_header(salt, &bytes[*start..]).is_some_and(later));
        rest.later = rest.later.or(found.map(|start| at + start as u64));
        if got < window.len() {
            return Ok(rest);
        }
        // Windows overlap by a header, so that one across the border is seen.
        at += (window.len() - HEADER_LEN.next_multiple_of(ALIGN)) as u64;
    }
}

/// Fills `buffer` from `at` on; fewer bytes only at the end of the file.
pub(crate) fn read_up_to(file: &dyn DiskFile, buffer: &mut [u8], at: u64) -> Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], at + done as u64)? {
            0 => break,
            count => done += count,
        }
    }
    Ok(done)
}

/// Bytes of one read while walking.
const READ_AHEAD: usize = 256 << 10;
