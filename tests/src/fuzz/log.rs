//! The log's files: an engine opens a disk that holds them.
//!
//! The promise, whatever they say: opening answers `Corrupt`, `Invalid`, or an engine; what it shows is dense from 1 and ends
//! in an error that names a file, if in one; a damaged log is not written to; what was shown is shown again by the next
//! opening; a log that is not damaged takes another event.

use std::{path::PathBuf, time::Duration};

use reprise_engine::{
    Error, ErrorKind,
    disk::sim::{SimDisk, image::Image},
    engine::{Engine, OpenReport, Outcome, Tail},
    event::Event,
    id::{LogId, Position},
};

use super::{corpus, forge, split};
use crate::faults::{
    run::{open, read_until_error},
    script::{create, padded},
};

/// A file as the only segment.
pub(super) fn segment(input: &[u8]) {
    let (how, bytes) = split(input);
    let mut bytes = unfolded(bytes);
    forge::segment(&mut bytes, how);
    check(&log_of(vec![(1, bytes)]));
}

/// Frames behind a sound header, in zero-filled space.
pub(super) fn frames(input: &[u8]) {
    let (how, frames) = split(input);
    let mut bytes = vec![0; forge::BLOCK];
    bytes[16..32].copy_from_slice(&[3; 16]);
    bytes[32] = 1;
    bytes[40] = 1;
    bytes[80..96].copy_from_slice(&[5; 16]);
    bytes.extend_from_slice(frames);
    let capacity = bytes.len().next_multiple_of(512) as u64;
    bytes.resize(usize::try_from(capacity).expect("a small file"), 0);
    bytes[96..104].copy_from_slice(&capacity.to_le_bytes());
    forge::segment(&mut bytes, forge::HEADER | (how & (forge::FRAMES | forge::CHAIN)));
    check(&log_of(vec![(1, bytes)]));
}

/// A file as a sealed segment, before an empty one that fits to it: footer and sections are read instead of frames.
pub(super) fn sealed(input: &[u8]) {
    let (how, bytes) = split(input);
    let mut bytes = unfolded(bytes);
    forge::segment(&mut bytes, how);
    let next = forge::successor(&bytes, SEGMENT_BYTES);
    check(&log_of([(1, bytes)].into_iter().chain(next).collect()));
}

/// One of the files that are smaller than a segment, beside a sound log: the anchor, the mark of the packs, the lock.
pub(super) fn small_files(input: &[u8]) {
    let (which, bytes) = split(input);
    let mut bytes = bytes.to_vec();
    let mut image = made(&[1, 1], true);
    match which % 4 {
        0 => image.put(ANCHOR, bytes),
        1 => {
            forge::anchor(&mut bytes);
            image.put(ANCHOR, bytes);
        }
        2 => image.put(MARK, bytes),
        _ => image.put("log/LOCK", bytes),
    }
    check(&image);
}

fn check(image: &Image) {
    let disk = SimDisk::from_image(image);
    let (engine, report) = match open(&disk, SEGMENT_BYTES) {
        Ok(opened) => opened,
        Err(error) => return check_refusal(image, &error),
    };
    let (events, error) = read_until_error(&engine);
    check_events(&events, error.as_ref());
    read_every_other_way(&engine, &events);
    drop(engine);
    if let Tail::Damaged { .. } = report.tail {
        let segments = |image: &Image| image.files.clone().into_iter().filter(is_segment).collect::<Vec<_>>();
        assert_eq!(segments(&disk.image()), segments(image), "a damaged log is not written to");
    }
    check_second_opening(&disk, &report, &events);
}

/// Only the mark of the packs can refuse as one that is not there or another log's.
fn check_refusal(image: &Image, error: &Error) {
    let of_the_mark = error.to_string().contains("packs");
    let named = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Invalid)
        || (of_the_mark && matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Conflict));
    assert!(named, "refused with {:?}: {error} ({:?})", error.kind(), image.files.keys());
}

fn check_events(events: &[Event], error: Option<&Error>) {
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event.position.0, index as u64 + 1, "positions are dense");
    }
    if let Some(error) = error {
        assert!(error.is_corrupt() && !error.to_string().is_empty(), "reading ended in {error}");
    }
}

/// The doors that a plain reading from the start does not pass: the sparse index, whole segments, chains.
fn read_every_other_way(engine: &Engine, events: &[Event]) {
    for segment in engine.segments() {
        let Ok(reader) = engine.read_segment(segment.first) else { continue };
        for group in reader.map_while(Result::ok) {
            let first = group.events[0].position;
            assert_eq!(events.get(place(first)), Some(&group.events[0]), "read from its segment");
        }
    }
    let durable = engine.durable().position.0;
    for at in [1, 2, durable / 2, durable.saturating_sub(1), durable].map(Position) {
        let chain = engine.chain_at(at);
        assert!(chain.is_ok() || chain.is_err_and(|error| error.is_corrupt()), "the chain at {at}");
        let Ok(mut follower) = engine.follow(at) else { continue };
        if let Ok(Some(group)) = follower.next(Duration::ZERO)
            && let Some(event) = events.get(place(group.events[0].position))
        {
            assert_eq!(*event, group.events[0], "followed from {at}");
        }
    }
}

fn check_second_opening(disk: &SimDisk, first: &OpenReport, events: &[Event]) {
    let (engine, second) = open(disk, SEGMENT_BYTES).expect("what was opened opens again");
    assert_eq!(second.durable, first.durable, "what was shown is shown again");
    if let Tail::Damaged { .. } = first.tail {
        assert!(engine.read_only().is_some(), "a damaged log is read-only");
        return;
    }
    assert_eq!(second.tail, Tail::Clean, "a tear is cut once");
    let outcome = engine.propose_and_wait(create(4_000_000));
    match outcome {
        Outcome::Done { first: position, .. } => {
            assert_eq!(position, second.durable.position.next());
            let (more, _) = read_until_error(&engine);
            assert_eq!(more.get(..events.len()), Some(events), "what was shown stays");
        }
        // The name, or the push id, may be in it.
        Outcome::NotDone(_) => {}
        Outcome::Unknown(_) => panic!("the disk has no fault"),
    }
}

fn place(position: Position) -> usize {
    usize::try_from(position.0.wrapping_sub(1)).unwrap_or(usize::MAX)
}

fn is_segment(file: &(String, std::sync::Arc<Vec<u8>>)) -> bool {
    file.0.starts_with("log/seg-")
}

/// A disk with these segments, and with the mark that makes it the first one's own.
fn log_of(segments: Vec<(u64, Vec<u8>)>) -> Image {
    let mut image = Image::default();
    if let Some(log) = segments[0].1.get(16..32) {
        let log = LogId(log.try_into().expect("sixteen bytes"));
        image.put(MARK, format!("{log}\n").into_bytes());
    }
    for (first, bytes) in segments {
        image.put(&format!("log/seg-{first:020}.log"), bytes);
    }
    image
}

/// A log that the engine wrote: so many events in each life, the last one closed or not.
fn made(lives: &[u64], closed: bool) -> Image {
    let disk = SimDisk::new();
    let mut number = 0;
    for (life, events) in lives.iter().enumerate() {
        let (engine, _) = open(&disk, SEGMENT_BYTES).expect("a sound log");
        for _ in 0..*events {
            number += 1;
            drop(engine.propose_and_wait(padded(number, 100)));
        }
        if closed || life + 1 < lives.len() {
            engine.shutdown().expect("a sound disk");
        }
    }
    disk.image()
}

fn segments_of(image: &Image) -> Vec<Vec<u8>> {
    let whole = image.files.clone().into_iter().filter(is_segment).map(|(_, bytes)| bytes.to_vec());
    whole.map(|bytes| bytes[..=bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0)].to_vec()).collect()
}

/// Segments of small logs, and the golden ones: as they are, and to be made right.
pub(super) fn segment_seeds() -> Vec<Vec<u8>> {
    let mut files: Vec<Vec<u8>> = Vec::new();
    for image in [made(&[2], true), made(&[3], false), made(&[1, 2, 1], true), made(&[20], true)] {
        files.extend(segments_of(&image));
    }
    files.extend(corpus::kept(&golden("log")).into_iter().filter(|file| file.len() > forge::BLOCK));
    let with = |how: u8| files.iter().map(move |file| [vec![how], folded(file)].concat());
    with(0).chain(with(u8::MAX)).collect()
}

/// A segment without the zeros of its header's block, which are not looked at: the header's two copies, then the frames.
fn folded(file: &[u8]) -> Vec<u8> {
    let (block, frames) = file.split_at(forge::BLOCK);
    [&block[..COPY], &block[forge::BLOCK / 2..][..COPY], frames].concat()
}

fn unfolded(input: &[u8]) -> Vec<u8> {
    let Some((copies, frames)) = input.split_at_checked(2 * COPY) else { return input.to_vec() };
    let zeros = [0; forge::BLOCK / 2 - COPY];
    [&copies[..COPY], &zeros, &copies[COPY..], &zeros, frames].concat()
}

/// What follows the headers of the same files.
pub(super) fn frames_seeds() -> Vec<Vec<u8>> {
    let frames = |seed: Vec<u8>| [&seed[..1], &seed[1 + 2 * COPY..]].concat();
    segment_seeds().into_iter().map(frames).collect()
}

/// The small files of a log, each in its place.
pub(super) fn small_file_seeds() -> Vec<Vec<u8>> {
    let image = made(&[1, 1], true);
    let file = |which: u8, path: &str| [&[which], image.file(path).unwrap_or_default()].concat();
    vec![file(0, ANCHOR), file(1, ANCHOR), file(2, MARK), file(3, "log/LOCK")]
}

/// A folder of golden files.
pub(super) fn golden(folder: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../snapshots").join(folder)
}

/// Bytes of one copy of a segment's header.
const COPY: usize = 112;
const SEGMENT_BYTES: u64 = 8 << 10;
const ANCHOR: &str = "log/anchor";
const MARK: &str = "STORE";
