//! The projector over a store that forgets as a real one may: rows newer than the flush, rows of the flush, nothing.
//!
//! Invariants: what was flushed is never beyond the log, whatever the machine did; folding again over newer rows, a rebuild
//! from the log and a fold from nothing leave equal rows.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use reprise_engine::{
    disk::Disk,
    engine::{Engine, Follower},
    id::Position,
};
use reprise_projections::{
    Checkpoint, Digest, Model as Projection, View,
    projections::build_at,
    projector::{Input, Projector},
    store::{Batch, RowSink, Store, memory::MemoryStore},
};

use super::{dice::Dice, life::Life, model::Model};
use crate::faults::run::{SPILL, rebuild};

/// The live index.
pub struct Index {
    rows: Rows,
    projector: Projector,
    follower: Option<Follower>,
    fed: Checkpoint,
    flushed: (Checkpoint, Rows),
}

/// Rows, some of them perhaps newer than the checkpoint that is folded from: nothing is served before those are folded again.
#[derive(Clone)]
struct Rows {
    store: Arc<MemoryStore>,
    newest: Position,
}

impl Rows {
    fn none() -> Rows {
        Rows { store: Arc::new(MemoryStore::new()), newest: Position::ZERO }
    }

    /// The same rows in a store of their own.
    fn copy(&self) -> Result<Rows, String> {
        Ok(Rows { store: Arc::new(copy(&self.store)?), newest: self.newest })
    }
}

impl Index {
    /// An empty one.
    pub fn new() -> Index {
        Index::over(Rows::none(), (Checkpoint::START, Rows::none()))
    }

    /// Goes on from a flush, over rows that may be newer.
    fn over(rows: Rows, flushed: (Checkpoint, Rows)) -> Index {
        let from = flushed.0;
        Index { projector: Projector::new(rows.store.clone(), from), rows, follower: None, fed: from, flushed }
    }

    /// The rows with what is known of their age by now.
    fn rows(&self) -> Rows {
        Rows { store: self.rows.store.clone(), newest: self.rows.newest.max(self.projector.folded().position) }
    }

    /// Some groups further; perhaps visible, perhaps pending.
    pub fn fold_some(&mut self, life: &Life, dice: &Dice) -> Result<String, String> {
        let engine = life.engine()?;
        let faults = life.faults();
        let folded = self.fold(&engine, dice.between(1, 20), dice.chance(70));
        match folded {
            Ok(()) => Ok(format!("folded to {}, fed to {}", self.projector.folded().position, self.fed.position)),
            Err(_) if life.faults() > faults => {
                // The process would read again from where it is.
                self.follower = None;
                Ok("the projector met a fault".to_owned())
            }
            Err(wrong) => Err(format!("folding: {wrong}")),
        }
    }

    /// Everything that is in the log.
    pub fn catch_up(&mut self, engine: &Engine) -> Result<(), String> {
        self.fold(engine, u64::MAX, true)
    }

    fn fold(&mut self, engine: &Engine, groups: u64, visible: bool) -> Result<(), String> {
        let text = |error: reprise_engine::Error| error.to_string();
        if self.follower.is_none() {
            let known = self.fed.position;
            if known > Position::ZERO && engine.chain_at(known).map_err(text)? != Some(self.fed.chain) {
                return Err(format!("the index knows the event at {known}, the log does not"));
            }
            self.follower = Some(engine.follow(known.next()).map_err(text)?);
        }
        for _ in 0..groups {
            let Some(follower) = &mut self.follower else { break };
            let Some(group) = follower.next(Duration::ZERO).map_err(text)? else { break };
            let end = Checkpoint { position: group.events[group.events.len() - 1].position, chain: group.chain };
            self.projector.step(Input::Group(group)).map_err(text)?;
            self.fed = end;
        }
        if visible {
            self.projector.step(Input::CaughtUp).map_err(text)?;
        }
        Ok(())
    }

    /// What is visible is durable from now on.
    pub fn flush(&mut self) -> Result<String, String> {
        let folded = self.projector.folded();
        self.flushed = (folded, self.rows().copy()?);
        Ok(format!("flushed at {}", folded.position))
    }

    /// The process is another one: rows are as they were, as they were flushed, or gone; it goes on from the flush.
    pub fn restarted(&mut self, clean: bool, dice: &Dice) -> Result<(), String> {
        let flushed = self.flushed.clone();
        *self = match dice.below(10) {
            0 if !clean => Index::new(),
            6.. if !clean => Index::over(flushed.1.copy()?, flushed),
            _ => Index::over(self.rows(), flushed),
        };
        Ok(())
    }

    /// Builds anew from the log, on the same disk and with whatever goes wrong there, up to where the index is; compares
    /// and switches. The text, and whether it switched.
    pub fn rebuild(&mut self, life: &Life, dice: &Dice) -> Result<(String, bool), String> {
        let engine = life.engine()?;
        let at = self.projector.folded();
        if at.position < self.rows.newest {
            return Ok(("not rebuilt: still folding what it had".to_owned(), false));
        }
        let faults = life.faults();
        let sizes = (dice.between(200, 4_000) as usize, dice.between(2, 5) as usize);
        let built = rebuild(&engine, at, sizes);
        match built {
            Ok((store, digest)) => {
                let live = digest_of(&self.rows.store)?;
                if digest != live {
                    return Err(format!("rebuilt at {}: {} is not {}", at.position, digest.overall(), live.overall()));
                }
                let rows = Rows { store, newest: at.position };
                *self = Index::over(rows.clone(), (at, rows.copy()?));
                let left = life.disk.list(SPILL).map_err(|error| error.to_string());
                match left {
                    Ok(names) if !names.is_empty() && life.faults() == faults => {
                        Err(format!("a rebuild left {names:?}"))
                    }
                    _ => Ok((format!("rebuilt at {}", at.position), true)),
                }
            }
            Err(_) if life.faults() > faults => Ok(("a rebuild met a fault".to_owned(), false)),
            Err(wrong) => Err(format!("rebuild at {}: {wrong}", at.position)),
        }
    }

    /// The rows are those of a fold from nothing, and what the model says.
    pub fn check(&self, engine: &Engine, model: &Model) -> Result<(), String> {
        let text = |error: reprise_engine::Error| error.to_string();
        let position = self.projector.folded().position;
        if position != engine.durable().position {
            return Err(format!("the index ends at {position}, the log at {}", engine.durable().position));
        }
        let anew = build_at(engine, position).and_then(|view| view.digest()).map_err(text)?;
        let live = digest_of(&self.rows.store)?;
        if anew != live {
            return Err(format!("folded anew at {position}: {} is not {}", anew.overall(), live.overall()));
        }
        let view = view_of(&self.rows.store)?;
        for (repo, known) in &model.state.live {
            let row = view.repo_by_name(&known.name.0, &known.name.1).map_err(text)?;
            let row = row.filter(|row| row.record.repo == *repo).ok_or_else(|| format!("{repo} is not there"))?;
            let refs = view.refs(row.scope()).map_err(text)?;
            let heads = refs.into_iter().map(|row| (row.name, row.head)).collect();
            if known.heads != heads {
                return Err(format!("branches of {repo}: {heads:?}, known {:?}", known.heads));
            }
            let releases = view.releases(row.scope()).map_err(text)?.into_iter().map(|row| row.tag).collect();
            if known.releases != releases {
                return Err(format!("releases of {repo}: {releases:?}, known {:?}", known.releases));
            }
        }
        model.state.gone.iter().try_for_each(|repo| match view.repo(*repo).map_err(text)? {
            Some(_) => Err(format!("{repo} was deleted and is there")),
            None => Ok(()),
        })
    }
}

fn view_of(store: &MemoryStore) -> Result<View, String> {
    store.snapshot().and_then(View::of_snapshot).map_err(|error| error.to_string())
}

fn digest_of(store: &MemoryStore) -> Result<Digest, String> {
    view_of(store)?.digest().map_err(|error| error.to_string())
}

fn copy(store: &MemoryStore) -> Result<MemoryStore, String> {
    let copied = (|| {
        let (snapshot, into) = (store.snapshot()?, MemoryStore::new());
        let mut batch = Batch::new();
        for model in Projection::ALL {
            snapshot.scan(model, &[], None, &mut |key, row| {
                batch.put(model, key, row);
                Ok(ControlFlow::Continue(()))
            })?;
        }
        into.apply(&batch, snapshot.checkpoint()?)?;
        Ok(into)
    })();
    copied.map_err(|error: reprise_engine::Error| error.to_string())
}
