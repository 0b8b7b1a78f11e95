//! Damage to the files of a log and of its packs at rest (T3): it is detected or harmless, never silent.
//!
//! Invariants: an event that a damaged log gives back is exactly the event that was written; fewer events than were written
//! come with an error that names the damage, or with a tail that says so; a log found damaged is not written to. The one
//! stated limit: without a clean shutdown, damage that reaches the start of the last group looks like a tear and is reported.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::Bytes;
use reprise_engine::{
    Error,
    disk::sim::{SimDisk, Survival, image::Image},
    engine::Tail,
    event::{EventBody, ObjectRow},
    id::{Kind, ObjectId},
    pack::{Location, location_of, read_object},
};

use super::{
    judge::{changed, segments},
    run::{open, read_until_error, run},
    script::Script,
};

/// A log at rest.
pub struct Rest {
    /// Its files.
    pub image: Image,
    /// The same log earlier, for "an older file".
    pub earlier: Vec<Image>,
    /// What is in it.
    pub events: Vec<EventBody>,
    /// Events before the last batch, before the one before it, …
    pub before_last: Vec<usize>,
    /// How many batches one damage can touch: so many may look like a tear if they are the last ones.
    pub batches_touched: usize,
    /// It was shut down cleanly.
    pub clean: bool,
    /// Bytes at which a segment is sealed.
    pub segment_bytes: u64,
}

/// How damage showed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Shown {
    /// All events were read back.
    Harmless,
    /// It was named.
    Detected,
    /// It was not, or wrongly: what happened.
    Silent(String),
}

/// What a run of damages saw.
#[derive(Default, Debug)]
pub struct Counts {
    /// Damages that changed nothing.
    pub harmless: usize,
    /// Damages that were named.
    pub detected: usize,
    /// Those that were not, the first few.
    pub silent: Vec<String>,
}

impl Counts {
    /// Counts one.
    pub fn note(&mut self, shown: Shown, what: impl FnOnce() -> String) {
        match shown {
            Shown::Harmless => self.harmless += 1,
            Shown::Detected => self.detected += 1,
            Shown::Silent(how) if self.silent.len() < 12 => self.silent.push(format!("{}: {how}", what())),
            Shown::Silent(_) => {}
        }
    }
}

impl Rest {
    /// The log that a script of one stage leaves.
    pub fn of(script: &Script) -> Rest {
        let stages = run(script, |_| {});
        let stage = stages.last().unwrap();
        let done = stage.done();
        let mut events = stage.before.clone();
        done.iter().for_each(|(_, batch)| events.extend(batch.events.iter().cloned()));
        let mut end = events.len();
        let lengths = done.iter().rev().map(|(_, batch)| batch.events.len());
        let before_last = lengths
            .map(|len| {
                end -= len;
                end
            })
            .collect();
        let mut earlier = Vec::new();
        let every = stage.history.len().div_ceil(12).max(1);
        stage.history.each_cut(|cut, crash| {
            if cut % every == 0 {
                earlier.push(crash.image(Survival::All, 0));
            }
        });
        let (clean, segment_bytes) = (script.shutdown, script.segment_bytes);
        Rest {
            image: stage.history.image_at(stage.history.len(), Survival::All, 0),
            earlier,
            events,
            before_last,
            batches_touched: 1,
            clean,
            segment_bytes,
        }
    }

    /// The files of the log (the lock's text is not one).
    pub fn files(&self) -> Vec<String> {
        self.files_in("log/")
    }

    /// Packs, and the mark that says whose they are.
    pub fn store_files(&self) -> Vec<String> {
        [self.files_in("packs/"), self.files_in("STORE")].concat()
    }

    fn files_in(&self, prefix: &str) -> Vec<String> {
        self.image.files.keys().filter(|path| path.starts_with(prefix)).cloned().collect()
    }

    /// The image with one file's content changed.
    pub fn with(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) -> Image {
        let mut image = self.image.clone();
        change(Arc::make_mut(image.files.get_mut(path).unwrap()));
        image
    }

    /// What an image reads as when nothing is reported: no error, no tear, no damage.
    pub fn read(&self, image: &Image) -> Option<Vec<EventBody>> {
        let (engine, report) = open(&SimDisk::from_image(image), self.segment_bytes).ok()?;
        let (events, error) = read_until_error(&engine);
        let unreported = report.tail == Tail::Clean && error.is_none();
        unreported.then(|| events.into_iter().map(|event| event.body).collect())
    }

    /// Opens a damaged image, reads all of it.
    pub fn shown(&self, image: &Image) -> Shown {
        let shown = catch_unwind(AssertUnwindSafe(|| self.shown_unguarded(image)));
        shown.unwrap_or_else(|_| Shown::Silent("the engine panicked".to_owned()))
    }

    /// Opens an image with a damaged store, reads every object that the log names.
    pub fn shown_objects(&self, image: &Image) -> Shown {
        let shown = catch_unwind(AssertUnwindSafe(|| self.objects_unguarded(image)));
        shown.unwrap_or_else(|_| Shown::Silent("the engine panicked".to_owned()))
    }

    fn objects_unguarded(&self, image: &Image) -> Shown {
        let read = |image: &Image| -> Result<Vec<Option<Bytes>>, Error> {
            let (engine, _) = open(&SimDisk::from_image(image), self.segment_bytes)?;
            Ok(self
                .locations()
                .map(|(id, place)| read_object(&**engine.store(), Kind::Blob, id, &place).ok())
                .collect())
        };
        let intact = read(&self.image).unwrap();
        assert!(intact.iter().all(Option::is_some), "an intact object could not be read");
        // A store without its mark, or with another log's, is refused as a whole.
        let Ok(found) = read(image) else { return Shown::Detected };
        match intact.iter().zip(&found).any(|(intact, found)| found.is_some() && found != intact) {
            true => Shown::Silent("an object was given back wrong".to_owned()),
            false if found == intact => Shown::Harmless,
            false => Shown::Detected,
        }
    }

    /// Where the log says that objects are.
    fn locations(&self) -> impl Iterator<Item = (ObjectId, Location)> {
        let received = self.events.iter().filter_map(|event| match event {
            EventBody::ObjectsReceived(received) => Some(received),
            _ => None,
        });
        received.flat_map(|received| {
            let place = |(at, row): (usize, &ObjectRow)| (row.id, location_of(received.pack, &received.rows, at));
            received.rows.iter().enumerate().map(place).collect::<Vec<_>>()
        })
    }

    fn shown_unguarded(&self, image: &Image) -> Shown {
        let disk = SimDisk::from_image(image);
        let Ok((engine, report)) = open(&disk, self.segment_bytes) else { return Shown::Detected };
        let (events, error) = read_until_error(&engine);
        for (index, event) in events.iter().enumerate() {
            if event.position.0 != index as u64 + 1 || self.events.get(index) != Some(&event.body) {
                return Shown::Silent(format!("event {} was given back wrong", event.position));
            }
        }
        let damaged = matches!(report.tail, Tail::Damaged { .. });
        if let (true, Some(name)) = (damaged, changed(&segments(image), &segments(&disk.image()))) {
            return Shown::Silent(format!("{name} of a damaged log was written to"));
        }
        let torn = |len| self.before_last.iter().take(self.batches_touched).any(|before| *before == len);
        match (&report.tail, error) {
            (_, None) if events.len() == self.events.len() => Shown::Harmless,
            (_, Some(error)) if error.is_corrupt() && error.file().is_some() => Shown::Detected,
            (_, Some(error)) => Shown::Silent(format!("reading answered {error}, which names no damage")),
            (Tail::Damaged { .. }, None) => Shown::Detected,
            (Tail::Torn { .. }, None) if !self.clean && torn(events.len()) => Shown::Detected,
            (tail, None) => Shown::Silent(format!("{} of {} events, tail {tail:?}", events.len(), self.events.len())),
        }
    }
}
