//! What a push delivers, wherever it lies: in the body of the request, or in packs that were uploaded before.
//!
//! Invariants: a commit or snapshot that is read from here has its id recomputed; a blob is stored only if it hashes to its id;
//! what is missing is answered from the repository's own rows only.

use std::sync::Arc;

use reprise_engine::{
    Error,
    event::ObjectRow,
    id::{Kind, ObjectId, PushId, TableHash},
    limits::PACK_ROWS_MAX,
    object::{Commit, Snapshot, json},
    pack::{Arriving, PackOrigin, StoredPack, is_large, location_of, open_blob_stream, read_object},
};
use reprise_projections::View;

use crate::{
    hub::{
        Hub, HubError, Repo,
        body::Body,
        mpack::upload::Upload,
        packing::{Packing, spool_error},
        receive::pack_missing,
    },
    wire::{Field, requests::PushIndex, value::value_of},
};

/// Records and blobs of one push.
pub enum Delivery {
    /// In a body, at these places.
    Body {
        /// The request.
        body: Body,
        /// Where what is in it.
        index: PushIndex,
    },
    /// In uploaded packs.
    Packs(Packs),
}

/// Uploaded packs, all of them verified.
pub struct Packs {
    packs: Vec<OpenPack>,
    commits: Vec<Place>,
    snapshots: Vec<Place>,
    blobs: Vec<Place>,
}

/// An uploaded pack that was read through and is good.
pub struct OpenPack {
    /// Its bytes.
    pub upload: Arc<Upload>,
    /// Where it says that it comes from.
    pub origin: PackOrigin,
    /// What the store will know of it.
    pub stored: StoredPack,
}

/// A row of a pack.
#[derive(Clone, Copy)]
struct Place {
    pack: usize,
    row: usize,
}

impl Delivery {
    /// How many commits.
    pub fn commits(&self) -> usize {
        match self {
            Delivery::Body { index, .. } => index.commits.len(),
            Delivery::Packs(packs) => packs.commits.len(),
        }
    }

    /// One of them, verified.
    pub fn commit(&self, at: usize) -> Result<Commit, HubError> {
        match self {
            Delivery::Body { body, index } => {
                let bytes = body.slice(index.commits[at]).map_err(spool_error)?;
                let root = Field::root("bundle.commits");
                let record = value_of(&bytes, &root.index(at))?;
                Commit::from_record(&record)
                    .map_err(|error| HubError::Invalid(format!("bundle.commits[{at}]: {error}")))
            }
            Delivery::Packs(packs) => packs.commit(packs.commits[at]),
        }
    }

    /// Ids of the snapshots, as the sender says.
    pub fn snapshots(&self) -> Vec<ObjectId> {
        match self {
            Delivery::Body { index, .. } => index.snapshots.iter().map(|snapshot| snapshot.id).collect(),
            Delivery::Packs(packs) => packs.snapshots.iter().map(|place| packs.row(*place).id).collect(),
        }
    }

    /// Bytes of one of them.
    pub fn snapshot_len(&self, at: usize) -> u64 {
        match self {
            Delivery::Body { index, .. } => index.snapshots[at].record.len.into(),
            Delivery::Packs(packs) => packs.row(packs.snapshots[at]).real_len,
        }
    }

    /// One of them, verified.
    pub fn snapshot(&self, at: usize) -> Result<Snapshot, HubError> {
        match self {
            Delivery::Body { body, index } => {
                let bytes = body.slice(index.snapshots[at].record).map_err(spool_error)?;
                let root = Field::root("bundle.snapshots");
                let record = value_of(&bytes, &root.index(at))?;
                let snapshot = Snapshot::from_record(&record);
                snapshot.map_err(|error| HubError::Invalid(format!("bundle.snapshots[{at}]: {error}")))
            }
            Delivery::Packs(packs) => packs.snapshot(packs.snapshots[at]),
        }
    }

    /// Ids of the blobs, as the sender says.
    pub fn blobs(&self) -> Vec<ObjectId> {
        match self {
            Delivery::Body { index, .. } => index.objects.iter().map(|object| object.id).collect(),
            Delivery::Packs(packs) => packs.blobs.iter().map(|place| packs.row(*place).id).collect(),
        }
    }

    /// Packs those blobs that the repository does not have; all of them were checked, or are.
    pub fn pack_blobs(&self, view: &View, repo: &Repo, packing: &mut Packing) -> Result<(), HubError> {
        match self {
            Delivery::Body { body, index } => pack_missing(view, repo, body, &index.objects, packing).map(drop),
            Delivery::Packs(packs) => packs.pack_blobs(view, repo, packing),
        }
    }

    /// The packs, if they can be stored as they came: they name this repository and this push, the repository has nothing of
    /// what is in them, and the store has no pack of their name.
    pub fn adoptable(&self, view: &View, repo: &Repo, push: PushId) -> Result<Option<&[OpenPack]>, HubError> {
        let Delivery::Packs(Packs { packs, .. }) = self else { return Ok(None) };
        for pack in packs {
            let origin = &pack.origin;
            let is_ours = origin.repo == repo.row.record.repo && origin.push == push && !repo.is_new;
            // A name that was retired is never taken again: its bytes may be deleted at any time.
            let is_used = view.is_named(pack.stored.pack)? || pack.upload.is_stored()?;
            if !is_ours || pack.stored.rows.is_empty() || is_used {
                return Ok(None);
            }
            for kind in [Kind::Blob, Kind::Snapshot, Kind::Commit] {
                let rows = pack.stored.rows.iter().filter(|row| row.kind == kind);
                let ids: Vec<ObjectId> = rows.map(|row| row.id).collect();
                if view.missing(repo.scope, kind, &ids)?.len() < ids.len() {
                    return Ok(None);
                }
            }
        }
        Ok((!packs.is_empty()).then_some(packs))
    }
}

impl Packs {
    /// Reads uploads through and verifies every byte of them. Errors: `Invalid` for what is not a pack, holds an object twice or
    /// passes a limit.
    pub fn open(hub: &Hub, uploads: Vec<Arc<Upload>>) -> Result<Packs, HubError> {
        let packs = uploads.into_iter().map(OpenPack::open).collect::<Result<Vec<_>, _>>()?;
        let places = |kind: Kind| {
            let of_pack = |(pack, open): (usize, &OpenPack)| {
                let rows = open.stored.rows.iter().enumerate().filter(move |(_, row)| row.kind == kind);
                rows.map(move |(row, _)| Place { pack, row }).collect::<Vec<_>>()
            };
            packs.iter().enumerate().flat_map(of_pack).collect::<Vec<_>>()
        };
        let (commits, snapshots, blobs) = (places(Kind::Commit), places(Kind::Snapshot), places(Kind::Blob));
        let opened = Packs { packs, commits, snapshots, blobs };
        opened.check(hub)?;
        Ok(opened)
    }

    fn check(&self, hub: &Hub) -> Result<(), HubError> {
        let limits = &hub.limits;
        let counts = [
            ("commits", self.commits.len(), limits.commits_per_push_max),
            ("snapshots", self.snapshots.len(), limits.snapshots_per_push_max),
        ];
        for (what, count, max) in counts {
            if count > max {
                return Err(HubError::TooLarge(format!("{count} {what} in one request; the limit is {max}")));
            }
        }
        for row in self.packs.iter().flat_map(|pack| &pack.stored.rows) {
            let max = if row.kind == Kind::Blob { limits.blob_bytes_max } else { limits.record_bytes_max };
            if row.real_len > max {
                let text = format!("{} {} has {} bytes; the limit is {max}", row.kind, row.id, row.real_len);
                return Err(HubError::TooLarge(text));
            }
        }
        for places in [&self.commits, &self.snapshots, &self.blobs] {
            let mut ids: Vec<ObjectId> = places.iter().map(|place| self.row(*place).id).collect();
            ids.sort_unstable();
            if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
                return Err(HubError::Invalid(format!("object {} stands in two of the packs", pair[0])));
            }
        }
        Ok(())
    }

    fn row(&self, place: Place) -> &ObjectRow {
        &self.packs[place.pack].stored.rows[place.row]
    }

    fn payload(&self, place: Place) -> Result<bytes::Bytes, HubError> {
        let OpenPack { upload, stored, .. } = &self.packs[place.pack];
        let row = &stored.rows[place.row];
        Ok(read_object(&**upload, row.kind, row.id, &location_of(stored.pack, &stored.rows, place.row))?)
    }

    fn commit(&self, place: Place) -> Result<Commit, HubError> {
        let id = self.row(place).id;
        let commit = json::from_canonical(&self.payload(place)?).and_then(|record| Commit::from_record(&record));
        let commit = commit.map_err(|error| not_that(Kind::Commit, id, &error))?;
        if commit.id != id {
            return Err(not_that(Kind::Commit, id, &Error::invalid(format!("its record gives the id {}", commit.id))));
        }
        Ok(commit)
    }

    fn snapshot(&self, place: Place) -> Result<Snapshot, HubError> {
        let id = self.row(place).id;
        let record = json::from_canonical(&self.payload(place)?);
        let snapshot = record.and_then(|record| Snapshot::from_record(&record));
        let snapshot = snapshot.map_err(|error| not_that(Kind::Snapshot, id, &error))?;
        if snapshot.id != id {
            return Err(not_that(
                Kind::Snapshot,
                id,
                &Error::invalid(format!("its record gives the id {}", snapshot.id)),
            ));
        }
        Ok(snapshot)
    }

    fn pack_blobs(&self, view: &View, repo: &Repo, packing: &mut Packing) -> Result<(), HubError> {
        let mut places: Vec<Place> = self.blobs.clone();
        places.sort_unstable_by_key(|place| self.row(*place).id);
        let ids: Vec<ObjectId> = places.iter().map(|place| self.row(*place).id).collect();
        let missing = view.missing(repo.scope, Kind::Blob, &ids)?;
        // By where they are: what is read together is stored together.
        places.retain(|place| missing.binary_search(&self.row(*place).id).is_ok());
        places.sort_unstable_by_key(|place| (place.pack, self.row(*place).offset));
        for place in places {
            let row = self.row(place);
            let OpenPack { upload, stored, .. } = &self.packs[place.pack];
            let location = location_of(stored.pack, &stored.rows, place.row);
            if is_large(Kind::Blob, &location) {
                packing.blob_in_pieces(row.id, row.real_len, open_blob_stream(&**upload, row.id, &location)?)?;
            } else {
                packing.blob_whole(row.id, &self.payload(place)?)?;
            }
        }
        Ok(())
    }
}

impl OpenPack {
    fn open(upload: Arc<Upload>) -> Result<OpenPack, HubError> {
        let mut reader = upload.reader();
        let mut read = || {
            let mut arriving = Arriving::open(&mut reader, upload.pack, PACK_ROWS_MAX)?;
            while arriving.next()?.is_some() {}
            let origin = *arriving.origin();
            let table = arriving.into_table().ok_or_else(|| Error::invalid("it has no table"))?;
            Ok::<_, Error>((origin, table))
        };
        let not_one = |error: Error| match error.is_corrupt() {
            true => HubError::Invalid(format!("this is not a whole pack: {error}")),
            false => error.into(),
        };
        let (origin, (rows, table_hash)): (PackOrigin, (Vec<ObjectRow>, TableHash)) = read().map_err(not_one)?;
        if !reader.into_inner().is_as_named() {
            return Err(HubError::Invalid(format!(
                "an upload does not hash to its name: it was to be {}",
                upload.pack
            )));
        }
        let stored = StoredPack { pack: upload.pack, bytes: upload.bytes, table_hash, rows };
        Ok(OpenPack { upload, origin, stored })
    }
}

fn not_that(kind: Kind, id: ObjectId, error: &Error) -> HubError {
    HubError::Invalid(format!("{kind} {id} of a pack: {error}"))
}
