//! Rolling to the next segment: a spare made ahead, the new segment's header, then the old one's footer.
//!
//! Invariants: nothing is appended to a segment before its header and its name are durable; the footer of the old one is
//! written behind it, and nothing is appended until it is.

use std::sync::Arc;

use super::{Doing, Io, Output, WriterCore};
use crate::{
    engine::Reason,
    log::{
        frame::Salt,
        header::{BLOCK_LEN, SegmentHeader},
        segment::{Active, SegmentEnd, footer, segment_capacity, shared_salt},
    },
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Spare {
    None,
    Preparing(u64),
    Ready(u64, Salt),
}

impl WriterCore {
    pub(super) fn prepare_ahead(&mut self, out: &mut Vec<Output>) {
        if self.is_well() && self.spare == Spare::None && self.active.end > self.active.capacity / 2 && !self.stopping {
            self.prepare(out);
        }
    }

    pub(super) fn prepare(&mut self, out: &mut Vec<Output>) {
        let capacity = segment_capacity(self.segments, self.segment_bytes);
        self.spare = Spare::Preparing(capacity);
        out.push(Output::Prepare { capacity });
    }

    pub(super) fn begin_roll(&mut self, out: &mut Vec<Output>) {
        let (capacity, salt) = match self.spare {
            Spare::Ready(capacity, salt) => (capacity, salt),
            Spare::Preparing(_) => {
                self.doing = if self.is_idle() { Doing::Nothing } else { Doing::WaitForSpare };
                return;
            }
            Spare::None => {
                self.prepare(out);
                self.doing = if self.is_idle() { Doing::Nothing } else { Doing::WaitForSpare };
                return;
            }
        };
        let (first, previous) = (self.durable.position.next(), self.durable.chain);
        let salt = self.shared.map_or(salt, |_| shared_salt(self.log, first, previous));
        let header = SegmentHeader { log: self.log, first, sequence: self.sequence, previous, salt, capacity };
        out.push(Output::Activate(header.clone()));
        self.doing = Doing::Activate(header);
    }

    pub(super) fn prepared(&mut self, io: Io, salt: Salt, out: &mut Vec<Output>) {
        let capacity = match self.spare {
            Spare::Preparing(capacity) => capacity,
            Spare::None | Spare::Ready(..) => return,
        };
        self.spare = Spare::None;
        let waited = self.waits_for_spare();
        if waited {
            self.doing = Doing::Nothing;
        }
        self.held_back = io != Io::Done;
        match io {
            Io::Done => self.spare = Spare::Ready(capacity, salt),
            Io::Full if waited => self.refuse_waiting(&Reason::Full, out),
            // The spare holds nothing yet: a failed one is thrown away and another is made when it is needed.
            Io::Lost(why) if waited => self.refuse_waiting(&Reason::ReadOnly(why), out),
            Io::Full | Io::Lost(_) => {}
        }
    }

    pub(super) fn activated(&mut self, io: Io, out: &mut Vec<Output>) {
        let Doing::Activate(header) = std::mem::replace(&mut self.doing, Doing::Nothing) else { return };
        match io {
            Io::Lost(why) => self.poison(why, out),
            Io::Full => {
                self.held_back = true;
                self.refuse_waiting(&Reason::Full, out);
            }
            Io::Done => {
                let end = SegmentEnd { durable: self.durable, sequence: self.sequence, time_ms: self.time_ms };
                let bytes = Arc::new(footer(self.log, &self.active, end, &self.state, &self.pushes));
                let (first, offset) = (self.active.first, self.active.end);
                self.pushes.seal(self.durable.position);
                self.active = Active {
                    first: header.first,
                    sequence: header.sequence,
                    salt: header.salt,
                    capacity: header.capacity,
                    end: BLOCK_LEN as u64,
                    index: Vec::new(),
                };
                self.spare = Spare::None;
                self.segments += 1;
                (self.waiting_roll, self.rolling) = (false, false);
                out.push(Output::Seal { first, offset, bytes: bytes.clone() });
                self.doing = Doing::Seal { first, offset, bytes, under_way: true };
            }
        }
    }

    pub(super) fn sealed(&mut self, io: Io, out: &mut Vec<Output>) {
        match (io, &mut self.doing) {
            (Io::Done, doing) => *doing = Doing::Nothing,
            (Io::Full, Doing::Seal { under_way, .. }) => {
                *under_way = false;
                self.refuse_waiting(&Reason::Full, out);
            }
            (Io::Full, _) => {}
            (Io::Lost(why), _) => self.poison(why, out),
        }
    }
}
