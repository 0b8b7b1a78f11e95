//! Positions and ordinals out of files: what no log reaches is damage, not a number to count on from (it overflowed).
use super::*;
use crate::{
    engine::Durable,
    id::{ChainHash, LogId, PushId},
    log::{
        anchor::Anchor,
        footer::{IndexEntry, Section, TRAILER_LEN, Trailer, decode_index, encode_index},
        frame::{self, Draft},
        header::{BLOCK_LEN, SegmentHeader},
        push_ids::{PushIds, decode_run},
        state_codec,
    },
};

const FAR: u64 = u64::MAX;
const CHAIN: ChainHash = ChainHash([0; 32]);
const LOG: LogId = LogId([1; 16]);

/// `read` answers whether a file with these two numbers is believed.
fn check(what: &str, read: impl Fn(u64, u64) -> bool) {
    assert!(read(1, 1), "{what}: sound");
    assert!(!read(FAR, 1), "{what}: the first number");
    assert!(!read(1, FAR), "{what}: the second number");
}

#[test]
fn a_position_or_ordinal_that_no_log_reaches_is_damage_in_every_file() {
    check("segment header", |first, sequence| {
        let capacity = BLOCK_LEN as u64;
        let header =
            SegmentHeader { log: LOG, first: Position(first), sequence, previous: CHAIN, salt: [2; 16], capacity };
        SegmentHeader::decode(&header.encode(), "a file").is_ok()
    });
    check("frame", |first, sequence| {
        let draft = Draft { flags: 0, count: 1, first: Position(first), sequence, time_ms: 1, previous: CHAIN };
        let mut bytes = Vec::new();
        frame::append(&mut bytes, &[2; 16], &draft, b"body");
        frame::parse_header(&[2; 16], &bytes).is_some()
    });
    check("trailer", |last, sequence| {
        let (first, last) = (Position(1), Position(last));
        let sections = [Section::default(); 3];
        let trailer = Trailer {
            log: LOG,
            first,
            last,
            sequence,
            frames_end: BLOCK_LEN as u64,
            time_ms: 1,
            chain: CHAIN,
            sections,
        };
        Trailer::decode(&trailer.encode([b""; 3]), (BLOCK_LEN + TRAILER_LEN) as u64).is_some()
    });
    check("index", |position, sequence| {
        decode_index(&encode_index(&[IndexEntry { position: Position(position), offset: 0, sequence }])).is_some()
    });
    check("anchor", |position, again| {
        let durable = Durable { position: Position(position.max(again)), chain: CHAIN };
        Anchor::decode(&Anchor { log: LOG, durable }.encode()).is_some()
    });
}

#[test]
fn the_same_holds_for_push_ids_and_for_the_decision_state() {
    check("push ids", |first, last| {
        let mut pushes = PushIds::default();
        pushes.note(PushId([1; 16]), 0, Position(1));
        let mut bytes = pushes.encode_active();
        bytes[24..32].copy_from_slice(&first.to_le_bytes());
        bytes[32..40].copy_from_slice(&last.to_le_bytes());
        decode_run(&bytes).is_some()
    });
    // Repository id, live, three positions, two texts, two counts.
    let state = |at: usize, position: u64| {
        let mut bytes = vec![0; 16 + 1 + 3 * 8 + 2 * 4 + 2 * 4];
        bytes[17 + 8 * at..25 + 8 * at].copy_from_slice(&position.to_le_bytes());
        state_codec::decode(&bytes).is_some()
    };
    assert!((0..3).all(|at| state(at, 1) && !state(at, FAR)));
}
