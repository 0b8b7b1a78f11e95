//! Packs as maps from names to bytes: what is added is what every reader gives back, and damage is never given back.
//!
//! Invariants: the model knows names, bytes and which pack they are in, nothing of codecs, preambles and tables; the store is
//! one in memory or one on a simulated disk; a damaged file is put right again after it was looked at.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use rand::{RngExt, rngs::StdRng};
use reprise_engine::{
    ErrorKind,
    clock::SeededRandom,
    disk::sim::SimDisk,
    id::{Kind, ObjectId, PushId, RecordHash, RepoId},
    pack::{
        PIECE_BYTES, PackOrigin, PackWriter, Payload, PlanItem, RangeReader, StoredPack, WHOLE_BYTES_MAX, Wanted,
        describe, location_of, open_blob_stream, plan_ranges, read_object, salvage, verify,
    },
    store::{ObjectStore, StoreKey, directory::DirectoryStore, memory::MemoryStore},
};
use sha2::{Digest, Sha256};

use crate::seeds;

/// One thing to do. Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
pub enum Step {
    /// Add an object.
    Add(Object),
    /// Add a blob piece by piece, in pieces of so many bytes.
    AddInPieces(Object, u32),
    /// Add again what is there.
    AddAgain(u16),
    /// Add a blob under a name that it does not hash to.
    AddWrong(u64),
    /// Finish the pack; the next object begins another one.
    Finish,
    /// Leave the pack unfinished.
    Drop,
    /// Read one object of any pack.
    Read(u16),
    /// Read so many objects of any packs by ranges, chosen by the seed.
    ReadRanges(u64, u8),
    /// Look at one pack as a whole: described, verified, salvaged.
    Inspect(u16),
    /// Change one byte of a pack, or cut it there; look at it; put it right again.
    Damage(u16, u32, u8),
}

/// An object to make.
#[derive(Clone, Copy, Debug)]
pub struct Object {
    /// What it is; a snapshot is one version of a growing manifest, so that it is stored against others.
    pub kind: Kind,
    /// How long.
    pub size: Size,
    /// Which bytes; few seeds, so that equal objects come again.
    pub seed: u64,
    /// Bytes that compress, or not.
    pub text: bool,
}

/// A length at which the layout changes.
#[derive(Clone, Copy, Debug)]
pub enum Size {
    /// So many bytes.
    Small(u16),
    /// Around the length up to which a blob is held whole (also the length of a piece and of the reading window).
    Whole(i8),
    /// Around two pieces.
    TwoPieces(i8),
    /// Longer than the window of the compressor.
    BeyondWindow(u16),
}

/// What one pack holds.
type Objects = BTreeMap<(Kind, ObjectId), Bytes>;

/// The model, and the packs that it is held against.
pub struct PackModel {
    store: Arc<dyn ObjectStore>,
    memory: MemoryStore,
    /// Damage can be put into a store in memory only.
    in_memory: bool,
    nonce: u8,
    writer: Option<PackWriter>,
    open: Objects,
    packs: Vec<(StoredPack, Objects)>,
}

impl PackModel {
    /// An empty store.
    pub fn new(in_memory: bool) -> PackModel {
        let memory = MemoryStore::new();
        let store: Arc<dyn ObjectStore> = match in_memory {
            true => Arc::new(memory.clone()),
            false => Arc::new(DirectoryStore::new(Arc::new(SimDisk::new()), Arc::new(SeededRandom::new(1)))),
        };
        PackModel { store, memory, in_memory, nonce: 0, writer: None, open: BTreeMap::new(), packs: Vec::new() }
    }

    /// Does one step; panics where model and packs part.
    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Add(object) => self.add(*object, None),
            Step::AddInPieces(object, piece) => self.add(Object { kind: Kind::Blob, ..*object }, Some(*piece)),
            Step::AddAgain(at) => self.add_again(*at),
            Step::AddWrong(seed) => self.add_wrong(*seed),
            Step::Finish => self.finish_pack(),
            Step::Drop => {
                (self.writer, self.open) = (None, BTreeMap::new());
                self.check_listing();
            }
            Step::Read(at) => self.read(*at),
            Step::ReadRanges(seed, count) => self.read_ranges(*seed, *count),
            Step::Inspect(at) => {
                if let Some((stored, objects)) = pick(&self.packs, *at) {
                    inspect(&*self.store, stored, objects);
                }
            }
            Step::Damage(at, place, mask) => self.damage(*at, *place, *mask),
        }
    }

    /// Finishes what is open and looks at every pack.
    pub fn finish(&mut self) {
        self.finish_pack();
        for (stored, objects) in &self.packs {
            inspect(&*self.store, stored, objects);
        }
        self.check_listing();
    }

    fn add(&mut self, object: Object, piece: Option<u32>) {
        let payload = object.payload();
        let id = ObjectId(Sha256::digest(&payload).into());
        let known = self.open.contains_key(&(object.kind, id));
        let writer = self.writer();
        assert_eq!(writer.contains(object.kind, id), known);
        // The name of a blob in pieces is known at its end only: a second one would spoil its pack.
        let added = match piece {
            Some(_) if known => return,
            Some(piece) => add_in_pieces(writer, id, &payload, piece),
            None => add_whole(writer, object.kind, id, &payload),
        };
        match added {
            Ok(()) => assert!(self.open.insert((object.kind, id), payload).is_none(), "a name was taken twice"),
            Err(error) => assert!(known && error.kind() == ErrorKind::Conflict, "{error}"),
        }
        self.check_rows();
    }

    fn add_again(&mut self, at: u16) {
        let names: Vec<_> = self.open.keys().copied().collect();
        let Some((kind, id)) = pick(&names, at).copied() else { return };
        let payload = self.open[&(kind, id)].clone();
        let refused = add_whole(self.writer(), kind, id, &payload).expect_err("it is there");
        assert_eq!(refused.kind(), ErrorKind::Conflict);
        self.check_rows();
    }

    fn add_wrong(&mut self, seed: u64) {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&seed.to_le_bytes());
        let refused = self.writer().add_blob(ObjectId(id), b"other bytes").expect_err("it does not hash to its name");
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        self.check_rows();
    }

    /// A refusal leaves the pack as it was.
    fn check_rows(&mut self) {
        let expected = self.open.len();
        assert_eq!(self.writer().rows(), expected);
    }

    fn writer(&mut self) -> &mut PackWriter {
        let (nonce, store) = (&mut self.nonce, &self.store);
        self.writer.get_or_insert_with(|| {
            *nonce = nonce.wrapping_add(1);
            let origin = PackOrigin { repo: RepoId([1; 16]), push: PushId([2; 16]), nonce: [*nonce; 16] };
            PackWriter::new(store.stage().expect("room"), origin).expect("room")
        })
    }

    fn finish_pack(&mut self) {
        let Some(writer) = self.writer.take() else { return };
        let stored = writer.finish().expect("a whole pack");
        let objects = std::mem::take(&mut self.open);
        let names: Vec<_> = stored.rows.iter().map(|row| (row.kind, row.id)).collect();
        assert!(names.iter().eq(objects.keys()), "a row for each object, in their order");
        self.packs.push((stored, objects));
    }

    fn check_listing(&self) {
        let mut expected: Vec<StoreKey> = self.packs.iter().map(|(stored, _)| StoreKey::pack(stored.pack)).collect();
        expected.sort();
        assert_eq!(self.store.list("packs").expect("a listing"), expected, "finished packs, and nothing else");
    }

    fn wanted(&self) -> Vec<(Wanted, &Bytes)> {
        self.packs
            .iter()
            .flat_map(|(stored, objects)| {
                stored.rows.iter().enumerate().map(move |(index, row)| {
                    let location = location_of(stored.pack, &stored.rows, index);
                    (Wanted { kind: row.kind, id: row.id, location }, &objects[&(row.kind, row.id)])
                })
            })
            .collect()
    }

    fn read(&self, at: u16) {
        let all = self.wanted();
        let Some((wanted, payload)) = pick(&all, at) else { return };
        let read = read_object(&*self.store, wanted.kind, wanted.id, &wanted.location).expect("it was stored");
        assert!(read == *payload, "{} {}", wanted.kind, wanted.id);
        if wanted.kind == Kind::Blob {
            let pieces = open_blob_stream(Arc::clone(&self.store), wanted.id, &wanted.location).expect("a blob");
            assert!(whole(Payload::Pieces(Box::new(pieces))).is_ok_and(|read| read == *payload), "in pieces");
        }
    }

    fn read_ranges(&self, seed: u64, count: u8) {
        let mut random = seeds::random(seed, 1);
        let mut all = self.wanted();
        while all.len() > usize::from(count) {
            all.swap_remove(random.random_range(0..all.len()));
        }
        all.sort_by_key(|(wanted, _)| (wanted.location.pack, wanted.location.offset));
        let plan = plan_ranges(all.iter().map(|(wanted, _)| PlanItem::of(wanted.kind, &wanted.location)));
        let list: Vec<Wanted> = all.iter().map(|(wanted, _)| wanted.clone()).collect();
        let mut reader = RangeReader::new(Arc::clone(&self.store), plan.ranges, list.into_iter());
        for (expected, payload) in &all {
            let (wanted, read) = reader.next().expect("as many as were asked for");
            assert_eq!(wanted, *expected, "in the order of the plan");
            assert!(read.and_then(whole).is_ok_and(|read| read == **payload), "{} {}", wanted.kind, wanted.id);
        }
        assert!(reader.next().is_none());
    }

    fn damage(&self, at: u16, place: u32, mask: u8) {
        let Some((stored, objects)) = pick(&self.packs, at).filter(|_| self.in_memory) else { return };
        let key = StoreKey::pack(stored.pack);
        let sound = self.memory.read(&key, 0, stored.bytes).expect("it is there");
        let place = usize::try_from(u64::from(place) % stored.bytes).expect("a small pack");
        let mut bytes = sound.to_vec();
        match mask {
            0 => bytes.truncate(place),
            mask => bytes[place] ^= mask,
        }
        self.memory.overwrite(&key, bytes.into());
        check_damaged(&self.memory, stored, objects);
        self.memory.overwrite(&key, sound);
    }
}

/// All that can be asked of a sound pack.
fn inspect(store: &dyn ObjectStore, stored: &StoredPack, objects: &Objects) {
    assert_eq!(describe(store, stored.pack).expect("a sound pack").stored, *stored);
    let verified = verify(store, stored.pack, &mut |kind, id, why| panic!("{kind} {id}: {why}"));
    assert_eq!(verified.expect("a sound pack").stored, *stored);
    let salvaged = salvage(store, stored.pack, &mut |at, why| panic!("{at}: {why}")).expect("a sound pack");
    assert_eq!((&salvaged.rows, salvaged.complete), (&stored.rows, true));
    assert_eq!(stored.rows.len(), objects.len());
}

/// Damage is told by verification, never given back, and salvage gives back nothing that was not there.
fn check_damaged(store: &MemoryStore, stored: &StoredPack, objects: &Objects) {
    let mut told = 0;
    let verified = verify(store, stored.pack, &mut |_, _, _| told += 1);
    assert!(verified.is_err() || told > 0, "a damaged pack passed");
    for (index, row) in stored.rows.iter().enumerate() {
        match read_object(store, row.kind, row.id, &location_of(stored.pack, &stored.rows, index)) {
            Ok(read) => assert!(read == objects[&(row.kind, row.id)], "wrong bytes of {} {}", row.kind, row.id),
            Err(error) => assert!(error.is_corrupt(), "{error}"),
        }
    }
    let Ok(salvaged) = salvage(store, stored.pack, &mut |_, _| {}) else { return };
    for (index, row) in salvaged.rows.iter().enumerate() {
        let read = read_object(store, row.kind, row.id, &location_of(stored.pack, &salvaged.rows, index));
        assert!(
            read.is_ok_and(|read| Some(&read) == objects.get(&(row.kind, row.id))),
            "made up {} {}",
            row.kind,
            row.id
        );
    }
}

impl Object {
    fn payload(self) -> Bytes {
        if self.kind == Kind::Snapshot {
            return manifest(self.seed, self.size.bytes() % 4_096).into();
        }
        let mut random = seeds::random(self.seed, 2);
        if self.text {
            text(&mut random, self.size.bytes()).into()
        } else {
            seeds::bytes(&mut random, self.size.bytes()).into()
        }
    }
}

impl Size {
    fn bytes(self) -> usize {
        let around = |middle: u64, by: i8| middle.saturating_add_signed(by.into());
        let bytes = match self {
            Size::Small(bytes) => u64::from(bytes),
            Size::Whole(by) => around(WHOLE_BYTES_MAX, by),
            Size::TwoPieces(by) => around(2 * PIECE_BYTES, by),
            Size::BeyondWindow(by) => (9 << 20) + u64::from(by),
        };
        usize::try_from(bytes).expect("a small blob")
    }
}

/// A manifest whose versions differ in one line each.
fn manifest(version: u64, bytes: usize) -> Vec<u8> {
    let line = |number: u64| {
        let content = if number == version % 8 { version } else { 0 };
        format!(
            "\"src/file{number}\":\"{}\",",
            hex::encode(Sha256::digest([number.to_le_bytes(), content.to_le_bytes()].concat()))
        )
    };
    let mut text: Vec<u8> = (0..8 + bytes as u64 / 80).flat_map(|number| line(number).into_bytes()).collect();
    text.push(b'}');
    text
}

fn text(random: &mut StdRng, bytes: usize) -> Vec<u8> {
    const WORDS: [&[u8]; 4] = [b"the quick ", b"brown fox ", b"jumps over ", b"the lazy dog, "];
    let mut text = Vec::with_capacity(bytes + 16);
    while text.len() < bytes {
        text.extend_from_slice(WORDS[random.random_range(0..WORDS.len())]);
    }
    text.truncate(bytes);
    text
}

fn add_whole(writer: &mut PackWriter, kind: Kind, id: ObjectId, payload: &[u8]) -> reprise_engine::Result<()> {
    if kind == Kind::Blob {
        return writer.add_blob(id, payload);
    }
    let canonical = [format!("{kind} {}\0", payload.len()).as_bytes(), payload].concat();
    writer.add_record(kind, id, RecordHash(Sha256::digest(canonical).into()), payload)
}

fn add_in_pieces(writer: &mut PackWriter, id: ObjectId, payload: &[u8], piece: u32) -> reprise_engine::Result<()> {
    let mut blob = writer.begin_blob(payload.len() as u64)?;
    let piece = usize::try_from(piece).expect("a small piece").max(1 + payload.len() / 1_000);
    payload.chunks(piece).try_for_each(|piece| blob.write(piece))?;
    blob.finish(id)
}

fn whole(payload: Payload) -> reprise_engine::Result<Bytes> {
    match payload {
        Payload::Whole(bytes) => Ok(bytes),
        Payload::Pieces(pieces) => Ok(pieces.collect::<reprise_engine::Result<Vec<Bytes>>>()?.concat().into()),
    }
}

fn pick<T>(items: &[T], at: u16) -> Option<&T> {
    items.get(usize::from(at) % items.len().max(1))
}
