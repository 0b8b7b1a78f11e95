//! Direct transfer (API.md): one pack of any size, which goes on from any byte after a broken connection or a killed command.
//!
//! Invariants: the pack grows in a file beside a note of what was asked for and what the server called the answer; bytes of
//! different answers are never joined; nothing of it is used before all of it is there, and nothing of it is kept that does not
//! verify. What the note asks for is asked for to its end, even if the branches have moved on meanwhile: the rest comes after.

use std::{io::BufReader, path::PathBuf};

use bytes::Bytes;
use hyper::{Method, StatusCode, header};
use reprise_engine::{
    id::{Kind, ObjectId, PackId},
    limits::TRANSFER_ROWS_MAX,
    pack::{Arrival, Arriving},
};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;

use super::{
    ClientError,
    counter::Unit,
    fetch::{Fetch, blocking},
    files::{self, Found, Writing},
    http::{Answer, Sending},
    incoming::{DIRECTORY, Incoming, Settled},
    parallel, stock,
};

/// Brings `want` in one pack; an interrupted one goes on.
///
/// Errors: `Answered` with 404 or 405 from a hub that has no direct transfer, among others.
pub async fn bring(fetch: &Fetch, want: &[ObjectId], have: &[ObjectId]) -> Result<Settled, ClientError> {
    let mut transfer = match Transfer::resume(fetch)? {
        Some(transfer) => transfer,
        None => Transfer::begin(fetch, want, have)?,
    };
    let downloaded = transfer.download(fetch).await;
    if downloaded.as_ref().is_err_and(|error| error.status() == Some(StatusCode::NOT_FOUND)) && transfer.is_resumed {
        // What was wanted then is no more.
        transfer = Transfer::begin(fetch, want, have)?;
        transfer.download(fetch).await?;
    } else {
        downloaded?;
    }
    let (fetch, want) = (fetch.clone(), transfer.want()?);
    blocking(move || {
        let settled = receive(&fetch, &want);
        if !matches!(settled, Err(ClientError::Interrupted)) {
            files::remove(&note_path(&fetch))?;
            files::remove(&pack_path(&fetch))?;
        }
        settled
    })
    .await
}

/// The note beside a growing pack.
#[derive(Serialize, Deserialize)]
struct Transfer {
    want: Vec<String>,
    have: Vec<String>,
    /// The answer's name and its length, once it has begun.
    etag: Option<String>,
    bytes: Option<u64>,
    #[serde(skip)]
    is_resumed: bool,
}

impl Transfer {
    fn begin(fetch: &Fetch, want: &[ObjectId], have: &[ObjectId]) -> Result<Transfer, ClientError> {
        files::remove(&pack_path(fetch))?;
        let text = |ids: &[ObjectId]| ids.iter().map(ObjectId::to_string).collect();
        let (want, have) = (text(want), text(have));
        Ok(Transfer { want, have, etag: None, bytes: None, is_resumed: false })
    }

    /// What an interrupted command was at. A note that cannot be read is none.
    fn resume(fetch: &Fetch) -> Result<Option<Transfer>, ClientError> {
        let (note, pack) = (note_path(fetch), pack_path(fetch));
        if !matches!((files::look(&note)?, files::look(&pack)?), (Found::File(_), Found::File(_))) {
            return Ok(None);
        }
        let transfer: Option<Transfer> = serde_json::from_slice(&files::read(&note, NOTE_BYTES_MAX)?).ok();
        Ok(transfer
            .filter(|transfer| transfer.etag.is_some())
            .map(|transfer| Transfer { is_resumed: true, ..transfer }))
    }

    fn want(&self) -> Result<Vec<ObjectId>, ClientError> {
        ids(&self.want)
    }

    /// Until all bytes are there. Each attempt that brought some earns the patience of the first.
    async fn download(&mut self, fetch: &Fetch) -> Result<(), ClientError> {
        let body = stock::want_have(&self.want()?, &ids(&self.have)?);
        let mut fruitless = 0;
        loop {
            let before = self.came(fetch)?;
            let error = match self.attempt(fetch, &body).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let Some(after) = error.retry_after() else { return Err(error) };
            fruitless = if self.came(fetch)? > before { 0 } else { fruitless + 1 };
            if fruitless >= FRUITLESS_MAX {
                return Err(error);
            }
            tracing::debug!(%error, "going on with the pack");
            fetch.remote.pause(fruitless, after).await?;
        }
    }

    async fn attempt(&mut self, fetch: &Fetch, body: &Bytes) -> Result<(), ClientError> {
        let came = self.came(fetch)?;
        if self.bytes == Some(came) {
            return Ok(());
        }
        let mut ask = fetch.remote.ask(Method::POST, "fetch/mpack", Sending::Msgpack(body.clone()));
        if let (Some(etag), 1..) = (&self.etag, came) {
            ask.headers.push((header::RANGE, format!("bytes={came}-")));
            ask.headers.push((header::IF_RANGE, etag.clone()));
        }
        let mut answer = fetch.remote.send(&ask).await?;
        let at = self.begins_at(&answer, came)?;
        // The file first: a note must never name an answer whose bytes are not those in the file.
        let mut file = tokio::fs::File::from_std(files::append_at(&pack_path(fetch), at)?);
        let note = serde_json::to_vec(self).map_err(|error| ClientError::Refused(error.to_string()))?;
        files::write(&note_path(fetch), &note)?;
        fetch.counter.begin("fetching", Unit::Bytes, self.bytes.unwrap_or_default());
        fetch.counter.add(at);
        let failed = |error| ClientError::files("writing", &pack_path(fetch), error);
        let result = loop {
            match answer.next().await {
                Ok(Some(piece)) => {
                    file.write_all(&piece).await.map_err(failed)?;
                    fetch.counter.add(piece.len() as u64);
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        // What came counts, however the answer ended.
        file.flush().await.map_err(failed)?;
        result?;
        match self.came(fetch)? {
            came if Some(came) == self.bytes => Ok(()),
            came => Err(ClientError::untrusted(format!("the pack ended after {came} bytes"))),
        }
    }

    /// At which byte of the pack an answer begins; notes its name and the pack's length.
    fn begins_at(&mut self, answer: &Answer, came: u64) -> Result<u64, ClientError> {
        let etag = answer.header(&header::ETAG).map(str::to_owned);
        let len = answer.header(&header::CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
        let (Some(etag), Some(len)) = (etag, len) else {
            return Err(ClientError::untrusted("a pack without name or length"));
        };
        let range = answer.header(&header::CONTENT_RANGE);
        let at = match (answer.status, range) {
            (StatusCode::PARTIAL_CONTENT, Some(range))
                if Some(&etag) == self.etag.as_ref() && range.starts_with(&format!("bytes {came}-")) =>
            {
                came
            }
            (StatusCode::OK, _) => 0,
            _ => return Err(ClientError::untrusted("it continues something else than was asked for")),
        };
        self.etag = Some(etag);
        self.bytes = at.checked_add(len);
        Ok(at)
    }

    fn came(&self, fetch: &Fetch) -> Result<u64, ClientError> {
        match files::look(&pack_path(fetch))? {
            Found::File(bytes) => Ok(bytes),
            _ => Ok(0),
        }
    }
}

/// Reads a whole pack and hands everything in it over; batches of one kind are written on all cores.
fn receive(fetch: &Fetch, want: &[ObjectId]) -> Result<Settled, ClientError> {
    let (incoming, path) = (Incoming::begin(&fetch.repository)?, pack_path(fetch));
    let bytes = match files::look(&path)? {
        Found::File(bytes) => bytes,
        _ => 0,
    };
    fetch.counter.begin("writing", Unit::Bytes, bytes);
    let source = files::Counting::open(&path, fetch.counter.clone())?;
    let source = BufReader::with_capacity(READ_BYTES, source);
    let mut pack = Arriving::open(source, PackId([0; 32]), TRANSFER_ROWS_MAX).map_err(ClientError::untrusted)?;
    let mut batch = Batch { fetch, incoming: &incoming, kind: Kind::Commit, held: Vec::new(), bytes: 0 };
    let mut large: Option<Writing> = None;
    while let Some(arrival) = pack.next().map_err(ClientError::untrusted)? {
        match arrival {
            Arrival::Object { kind, id, payload } => batch.add(kind, id, payload)?,
            Arrival::Piece(piece) => match &mut large {
                Some(writing) => writing.write(&piece)?,
                None => large.insert(incoming.begin_blob()?).write(&piece)?,
            },
            Arrival::Blob { id, .. } => {
                let writing = large.take().map_or_else(|| incoming.begin_blob(), Ok)?;
                incoming.end_blob(writing, id)?;
            }
        }
        if fetch.stop.is_cancelled() {
            return Err(ClientError::Interrupted);
        }
    }
    batch.write()?;
    incoming.settle(want, &fetch.stop)
}

/// Objects of one kind that wait to be written: all commits must be known before the first snapshot.
struct Batch<'a> {
    fetch: &'a Fetch,
    incoming: &'a Incoming<'a>,
    kind: Kind,
    held: Vec<(ObjectId, Bytes)>,
    bytes: usize,
}

impl Batch<'_> {
    fn add(&mut self, kind: Kind, id: ObjectId, payload: Bytes) -> Result<(), ClientError> {
        if kind != self.kind || self.held.len() >= BATCH_OBJECTS || self.bytes >= BATCH_BYTES {
            self.write()?;
            self.kind = kind;
        }
        self.bytes += payload.len();
        self.held.push((id, payload));
        Ok(())
    }

    fn write(&mut self) -> Result<(), ClientError> {
        let (kind, incoming) = (self.kind, self.incoming);
        parallel::for_each(&self.held, &self.fetch.stop, |(id, payload)| {
            if kind == Kind::Blob {
                // Hashed by the pack's reader.
                return incoming.put_blob(*id, payload);
            }
            let record = serde_json::from_slice(payload).map_err(ClientError::untrusted)?;
            let derived = if kind == Kind::Commit { incoming.commit(&record)? } else { incoming.snapshot(&record)? };
            if derived == *id { Ok(()) } else { Err(ClientError::untrusted(format!("{kind} {id} is {derived}"))) }
        })?;
        self.held.clear();
        self.bytes = 0;
        Ok(())
    }
}

fn ids(texts: &[String]) -> Result<Vec<ObjectId>, ClientError> {
    let parse = |text: &String| text.parse().map_err(|_| ClientError::Refused(format!("'{text}' is no id")));
    texts.iter().map(parse).collect()
}

fn note_path(fetch: &Fetch) -> PathBuf {
    fetch.repository.muse(DIRECTORY).join("transfer.json")
}

fn pack_path(fetch: &Fetch) -> PathBuf {
    fetch.repository.muse(DIRECTORY).join("pack")
}

/// Attempts in a row that bring no byte.
const FRUITLESS_MAX: u32 = 6;
const NOTE_BYTES_MAX: u64 = 64 << 20;
const READ_BYTES: usize = 1 << 20;
const BATCH_OBJECTS: usize = 512;
const BATCH_BYTES: usize = 16 << 20;
