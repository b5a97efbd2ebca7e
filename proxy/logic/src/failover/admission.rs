//! What lanes are told of who may be written to.

use crate::failover::{Action, Failover, Out, Stage};
use crate::record::State;
use crate::topology::gate::{Gate, Writes};
use std::sync::Arc;

impl Failover {
    /// Who may be written to, by what is kept and not only meant.
    pub(super) fn tell(&mut self, out: &mut Out) {
        let kept = self.kept.as_ref().map(|(_, record)| record);
        let opened = kept.is_some_and(|kept| {
            kept.state == State::Normal
                && kept.epoch == self.record.epoch
                && kept.primary == self.record.primary
                && !kept.primary.is_empty()
        });
        let writes = match self.record.state {
            State::Normal if opened && self.held.is_none() => {
                Writes::Open(self.record.primary.as_str().into())
            }
            State::Switching if !self.record.stop_issued && !self.is_emptied() => Writes::Drain,
            // A planned change that is given up before anything was done ends nobody's work.
            State::Normal if self.gate.writes == Writes::Drain => Writes::Drain,
            State::Normal
            | State::Fencing
            | State::Promoting
            | State::Switching
            | State::Conflict => Writes::Shut,
        };
        let writes = match writes {
            Writes::Open(name) if self.opened.as_ref().is_some_and(|it| *it != name) => {
                Writes::Shut
            }
            Writes::Open(_) | Writes::Drain | Writes::Shut => writes,
        };
        let quarantine = self.record.quarantine.keys().map(|name| name.as_str().into()).collect();
        if writes != self.gate.writes || quarantine != self.gate.quarantine || self.gate.epoch == 0
        {
            // Whatever was opened before it was shut is not used after.
            let turned = writes != self.gate.writes || self.gate.epoch == 0;
            let epoch = self.gate.epoch + u64::from(turned);
            self.gate = Gate { epoch, writes, quarantine };
            out.push(Action::Gate(self.gate.clone()));
            if let Writes::Open(name) = &self.gate.writes {
                self.opened = Some(Arc::clone(name));
            }
        }
        self.clear(out);
        if let Stage::Vacating { epoch } | Stage::Draining { epoch, .. } = &mut self.stage
            && *epoch == 0
        {
            *epoch = self.gate.epoch;
            out.push(Action::Vacate(self.gate.epoch));
        }
    }

    /// Two nodes are never open at once, whoever has decided on the second and how: lanes let go of
    /// the first before.
    fn clear(&mut self, out: &mut Out) {
        let other = self.opened.as_ref().is_some_and(|it| **it != *self.record.primary);
        if other && self.gate.writes == Writes::Shut && self.clearing != self.gate.epoch {
            self.clearing = self.gate.epoch;
            out.push(Action::Vacate(self.gate.epoch));
        }
    }
}
