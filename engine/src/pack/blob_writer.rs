//! A blob on its way into a pack, piece by piece.
//!
//! Invariants: memory is constant: up to [`WHOLE_BYTES_MAX`] a blob is held and decided as a whole, beyond that the first
//! 64 KiB decide between raw and zstd; a blob that is dropped, too short, too long or wrongly named leaves its pack unusable.

use sha2::{Digest, Sha256};
use zstd::{
    stream::raw::{Encoder, InBuffer, Operation, OutBuffer},
    zstd_safe::CParameter,
};

use super::{
    PackWriter, WHOLE_BYTES_MAX,
    compress::{LEVEL_BLOB, failed, looks_random, saves},
    layout::{EntryPreamble, NO_BASE, Preamble, Seal},
};
use crate::{
    error::{Error, Result},
    event::{Codec, ObjectRow},
    id::{Kind, ObjectId},
};

/// A blob on its way into a pack, piece by piece.
pub struct BlobWriter<'a> {
    writer: &'a mut PackWriter,
    len: u64,
    taken: u64,
    state: State,
}

enum State {
    /// Not decided yet (or small enough to be decided at the end).
    Held(Vec<u8>),
    Streaming(Box<Streaming>),
}

struct Streaming {
    codec: Codec,
    encoder: Option<Encoder<'static>>,
    out: Vec<u8>,
    offset: u64,
    crc: u32,
    hasher: Sha256,
}

impl<'a> BlobWriter<'a> {
    pub(super) fn begin(writer: &'a mut PackWriter, len: u64) -> Result<BlobWriter<'a>> {
        writer.break_open();
        Ok(BlobWriter { writer, len, taken: 0, state: State::Held(Vec::new()) })
    }

    /// Appends a piece.
    pub fn write(&mut self, piece: &[u8]) -> Result<()> {
        self.taken += piece.len() as u64;
        if self.taken > self.len {
            return Err(Error::invalid(format!("a blob announced with {} bytes has more", self.len)));
        }
        if let State::Held(held) = &mut self.state {
            if self.len <= WHOLE_BYTES_MAX {
                held.extend_from_slice(piece);
                return Ok(());
            }
            let room = SAMPLE_BYTES - held.len();
            let (first, rest) = piece.split_at(room.min(piece.len()));
            held.extend_from_slice(first);
            if held.len() < SAMPLE_BYTES {
                return Ok(());
            }
            self.start_streaming()?;
            return self.stream(rest);
        }
        self.stream(piece)
    }

    /// Ends the blob; `Invalid` if the bytes do not hash to `id` or are not as many as announced (the pack is then unusable).
    pub fn finish(mut self, id: ObjectId) -> Result<()> {
        if self.taken != self.len {
            return Err(Error::invalid(format!("a blob announced with {} bytes has {}", self.len, self.taken)));
        }
        match std::mem::replace(&mut self.state, State::Held(Vec::new())) {
            State::Held(bytes) => {
                self.writer.mend();
                let added = self.writer.add_blob(id, &bytes);
                added.inspect_err(|_| self.writer.break_open())
            }
            State::Streaming(streaming) => self.finish_streaming(*streaming, id),
        }
    }

    fn start_streaming(&mut self) -> Result<()> {
        let State::Held(held) = std::mem::replace(&mut self.state, State::Held(Vec::new())) else { return Ok(()) };
        let encoder = if worth_squeezing(&held)? { Some(new_encoder(self.len)?) } else { None };
        let codec = if encoder.is_some() { Codec::Zstd } else { Codec::Raw };
        let preamble = EntryPreamble {
            kind: Kind::Blob,
            codec,
            streamed: true,
            stored_crc: 0,
            real_len: self.len,
            stored_len: 0,
            base: NO_BASE,
            id: ObjectId([0; 32]),
        };
        self.writer.emit(&Preamble::Entry(preamble).encode())?;
        let offset = self.writer.written();
        let streaming = Streaming { codec, encoder, out: vec![0; OUT_BYTES], offset, crc: 0, hasher: Sha256::new() };
        self.state = State::Streaming(Box::new(streaming));
        self.stream(&held)
    }

    fn stream(&mut self, piece: &[u8]) -> Result<()> {
        let State::Streaming(streaming) = &mut self.state else { return Ok(()) };
        streaming.hasher.update(piece);
        let Some(encoder) = streaming.encoder.as_mut() else {
            streaming.crc = crc32c::crc32c_append(streaming.crc, piece);
            return self.writer.emit(piece);
        };
        let mut input = InBuffer::around(piece);
        while input.pos() < piece.len() {
            let mut output = OutBuffer::around(streaming.out.as_mut_slice());
            encoder.run(&mut input, &mut output).map_err(failed)?;
            let made = output.pos();
            streaming.crc = crc32c::crc32c_append(streaming.crc, &streaming.out[..made]);
            self.writer.emit(&streaming.out[..made])?;
        }
        Ok(())
    }

    fn finish_streaming(self, mut streaming: Streaming, id: ObjectId) -> Result<()> {
        while let Some(encoder) = streaming.encoder.as_mut() {
            let mut output = OutBuffer::around(streaming.out.as_mut_slice());
            let left = encoder.finish(&mut output, false).map_err(failed)?;
            let made = output.pos();
            streaming.crc = crc32c::crc32c_append(streaming.crc, &streaming.out[..made]);
            self.writer.emit(&streaming.out[..made])?;
            if left == 0 {
                streaming.encoder = None;
            }
        }
        let hash: [u8; 32] = streaming.hasher.finalize().into();
        if hash != id.0 {
            return Err(Error::invalid(format!("the bytes sent for blob {id} do not hash to it")));
        }
        let stored_len = self.writer.written() - streaming.offset;
        self.writer.emit(&Seal { id, stored_len, stored_crc: streaming.crc }.encode())?;
        self.writer.note(ObjectRow {
            kind: Kind::Blob,
            id,
            offset: streaming.offset,
            stored_len,
            real_len: self.len,
            codec: streaming.codec,
            base: None,
            record_hash: None,
        })?;
        self.writer.mend();
        Ok(())
    }
}

fn worth_squeezing(sample: &[u8]) -> Result<bool> {
    if looks_random(sample) {
        return Ok(false);
    }
    let squeezed = zstd::bulk::compress(sample, LEVEL_BLOB).map_err(failed)?;
    Ok(saves(squeezed.len(), sample.len()))
}

fn new_encoder(len: u64) -> Result<Encoder<'static>> {
    let mut encoder = Encoder::new(LEVEL_BLOB).map_err(failed)?;
    encoder.set_parameter(CParameter::ContentSizeFlag(true)).map_err(failed)?;
    encoder.set_pledged_src_size(Some(len)).map_err(failed)?;
    Ok(encoder)
}

const SAMPLE_BYTES: usize = 64 << 10;
const OUT_BYTES: usize = 128 << 10;

const _: () = assert!((SAMPLE_BYTES as u64) < WHOLE_BYTES_MAX);
