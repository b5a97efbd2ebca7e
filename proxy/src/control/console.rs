//! The console: from a client's text to the letter that answers it.
//!
//! Each client's commands are carried out one after the other, so answers leave in the order of
//! the questions; a PAUSE that takes long holds up nobody else.

use crate::control::{Control, FAREWELL};
use pgring_logic::admin::command::{Command, Right, Show, Shutdown, right};
use pgring_logic::admin::encode::{Answer, Failure, describe, fail, finish};
use pgring_logic::admin::show::rows;
use pgring_logic::admin::world::Phase;
use pgring_logic::failover::verb::Verb;
use pgring_logic::id::{ConnId, Core};
use pgring_logic::mail::{AnswerShape, Mail, Order, Report};
use pgring_wire::backend::sqlstate;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

/// How many commands of one client may wait. The lane holds a client back long before.
const LINE_MAX: usize = 1_000;

/// `config_file_error`
const CONFIG_FILE_ERROR: &str = "F0000";
/// `object_not_in_prerequisite_state`
const OBJECT_NOT_IN_PREREQUISITE_STATE: &str = "55000";
/// `undefined_object`
const UNDEFINED_OBJECT: &str = "42704";

/// A command as it came.
#[derive(Debug)]
pub(super) struct Letter {
    /// Who says it.
    pub(super) user: Arc<str>,
    /// What.
    pub(super) text: String,
    /// How the answer is framed.
    pub(super) shape: AnswerShape,
}

/// What a client said while its last command was still being carried out.
pub(super) type Line = VecDeque<Letter>;

/// Takes in a command; the answer goes to the lane when there is one.
pub(super) fn receive(control: &Rc<Control>, client: (Core, ConnId), letter: Letter) {
    let mut state = control.state.borrow_mut();
    if let Some(line) = state.lines.get_mut(&client) {
        if line.len() < LINE_MAX {
            line.push_back(letter);
        } else {
            tracing::error!("a console client is not held back by its lane");
        }
        return;
    }
    state.lines.insert(client, Line::new());
    tokio::task::spawn_local(work(Rc::clone(control), client, letter));
}

/// Carries out a client's commands until there are none.
async fn work(control: Rc<Control>, client: (Core, ConnId), first: Letter) {
    let mut next = Some(first);
    while let Some(letter) = next {
        let bytes = reply(&control, &letter).await;
        control.post(client.0, Mail::Answer { conn: client.1, bytes });
        let mut state = control.state.borrow_mut();
        next = state.lines.get_mut(&client).and_then(VecDeque::pop_front);
        if next.is_none() {
            state.lines.remove(&client);
        }
    }
}

/// The answer to one command.
async fn reply(control: &Rc<Control>, letter: &Letter) -> Vec<u8> {
    let command = match judge(control, letter) {
        Ok(command) => command,
        Err(failure) => return fail(&failure, letter.shape),
    };
    match letter.shape {
        AnswerShape::DescribeStatement | AnswerShape::DescribePortal => {
            return describe(&command, letter.shape);
        }
        AnswerShape::Simple | AnswerShape::Execute => {}
    }
    match carry_out(control, &letter.user, &command).await {
        Ok(answer) => finish(&command, &answer, letter.shape),
        Err(failure) => fail(&failure, letter.shape),
    }
}

/// What the text means, if its user may say it.
fn judge(control: &Control, letter: &Letter) -> Result<Command, Failure> {
    let command = Command::parse(&letter.text);
    let right = right(&control.state.borrow().config, &letter.user);
    if right == Right::Nothing {
        return Err(Failure::denied(&command.unwrap_or(Command::Empty)));
    }
    let command = command?;
    if right < command.needs() { Err(Failure::denied(&command)) } else { Ok(command) }
}

async fn carry_out(
    control: &Rc<Control>,
    user: &Arc<str>,
    command: &Command,
) -> Result<Answer, Failure> {
    if command.needs() == Right::All {
        tracing::info!(user = &**user, ?command, "console");
    }
    match command {
        Command::Show(Show::Routes) => {
            let (reports, warnings) = heard(control, Mail::AskRoutes).await;
            return Ok(Answer { rows: control.routes(&reports), warnings });
        }
        Command::Show(_) => return Ok(show(control, command).await),
        Command::SelectOne => {
            return Ok(control
                .look(&[], |world| Answer { rows: rows(command, world), warnings: Vec::new() }));
        }
        Command::ExplainRoute { database, sql } => {
            known(control, database.as_deref())?;
            let rows = control.explain(database.as_deref(), sql)?;
            return Ok(Answer { rows, warnings: Vec::new() });
        }
        Command::Empty | Command::Ignored(_) => {}
        Command::Reload => return reload(control).await,
        Command::Pause(database) => pause(control, database.as_deref()).await?,
        Command::Resume(database) => resume(control, database.as_deref()).await?,
        Command::Reconnect(database) => {
            known(control, database.as_deref())?;
            order(control, Order::Reconnect(database.clone())).await?;
        }
        Command::KillClient(number) => kill(control, *number).await?,
        Command::Cluster { cluster, verb } => {
            return govern(control, user, cluster.as_deref(), verb).await;
        }
        Command::Shutdown(when) => shutdown(control, *when),
    }
    Ok(Answer::default())
}

async fn show(control: &Control, command: &Command) -> Answer {
    let (reports, warnings) = heard(control, Mail::Ask).await;
    control.look(&reports, |world| Answer { rows: rows(command, world), warnings })
}

/// What all lanes say, and who is missing.
async fn heard(control: &Control, question: fn(u64) -> Mail) -> (Vec<Report>, Vec<String>) {
    let reports = control.ask(question).await;
    let silent = control.lanes.count - reports.len();
    let mut warnings = Vec::new();
    if silent > 0 {
        warnings.push(format!("{silent} of {} lanes did not answer", control.lanes.count));
    }
    (reports, warnings)
}

async fn reload(control: &Rc<Control>) -> Result<Answer, Failure> {
    match control.reload().await {
        Ok(warnings) => Ok(Answer { rows: Vec::new(), warnings }),
        Err(errors) => Err(Failure::new(CONFIG_FILE_ERROR, errors.join("\n"))),
    }
}

/// A database that is named must be one clients could connect to.
fn known(control: &Control, database: Option<&str>) -> Result<(), Failure> {
    let Some(name) = database else { return Ok(()) };
    if control.state.borrow().config.database(name).is_some() {
        return Ok(());
    }
    let message = format!("there is no database \"{name}\"");
    Err(Failure::new(sqlstate::INVALID_CATALOG_NAME, message))
}

async fn pause(control: &Control, database: Option<&str>) -> Result<(), Failure> {
    known(control, database)?;
    let order = Order::Pause(database.map(str::to_owned));
    let (number, done) = control.order(&order, control.cores().collect());
    turn_phase(control, database, (Phase::Active, Phase::Paused));
    control.state.borrow_mut().pauses.push(number);
    let errors = done.await;
    control.state.borrow_mut().pauses.retain(|pause| *pause != number);
    let ended = |_| Failure::new(sqlstate::QUERY_CANCELED, "RESUME came before all was paused");
    first_error(errors.map_err(ended)?)
}

async fn resume(control: &Control, database: Option<&str>) -> Result<(), Failure> {
    known(control, database)?;
    turn_phase(control, database, (Phase::Paused, Phase::Active));
    let pauses = std::mem::take(&mut control.state.borrow_mut().pauses);
    for number in pauses {
        control.state.borrow_mut().orders.close(number);
    }
    order(control, Order::Resume(database.map(str::to_owned))).await
}

/// PAUSE and RESUME without a database turn the phase of the whole process.
fn turn_phase(control: &Control, database: Option<&str>, (from, to): (Phase, Phase)) {
    let mut state = control.state.borrow_mut();
    if database.is_none() && state.phase == from {
        state.phase = to;
    }
}

/// Gives an order to all lanes and waits until it is carried out.
async fn order(control: &Control, order: Order) -> Result<(), Failure> {
    let (_, done) = control.order(&order, control.cores().collect());
    let gone = |_| Failure::new(sqlstate::INTERNAL_ERROR, "the lanes did not answer");
    first_error(done.await.map_err(gone)?)
}

fn first_error(errors: Vec<Option<String>>) -> Result<(), Failure> {
    match errors.into_iter().flatten().next() {
        Some(error) => Err(Failure::new(sqlstate::INTERNAL_ERROR, error)),
        None => Ok(()),
    }
}

/// The cluster that is meant, and what comes of what is wanted of it.
async fn govern(
    control: &Rc<Control>,
    user: &Arc<str>,
    cluster: Option<&str>,
    verb: &Verb,
) -> Result<Answer, Failure> {
    let names: Vec<Arc<str>> = {
        let state = control.state.borrow();
        let mut machines = state.guards.machines();
        machines.retain(|it| cluster.is_none_or(|name| *name == **it.cluster()));
        machines.iter().map(|machine| Arc::clone(machine.cluster())).collect()
    };
    let name = match &names[..] {
        [name] => name,
        [] => {
            let message = match cluster {
                Some(name) => format!("pgring does not decide on the primary of {name:?}"),
                None => "pgring decides on the primary of no cluster".to_owned(),
            };
            let hint = Some("[clusters.failover] in the configuration says that it should.");
            return Err(Failure { hint, ..Failure::new(UNDEFINED_OBJECT, message) });
        }
        [..] => {
            let message = format!("which cluster? Add IN and one of {}", names.join(", "));
            return Err(Failure::new(sqlstate::SYNTAX_ERROR, message));
        }
    };
    match control.ask_guard(name, user, verb.clone()).await {
        Ok(lines) => {
            let rows = lines.into_iter().map(|line| vec![Some(line)]).collect();
            Ok(Answer { rows, warnings: Vec::new() })
        }
        Err(reason) => Err(Failure::new(OBJECT_NOT_IN_PREREQUISITE_STATE, reason)),
    }
}

async fn kill(control: &Control, number: u64) -> Result<(), Failure> {
    let reports = control.ask(Mail::Ask).await;
    let here = reports.iter().find(|report| report.clients.iter().any(|it| it.number == number));
    let Some(report) = here else {
        let message = format!("there is no client with id {number}");
        return Err(Failure::new(UNDEFINED_OBJECT, message));
    };
    let (_, done) = control.order(&Order::KillClient(number), [report.core].into());
    let gone = |_| Failure::new(sqlstate::INTERNAL_ERROR, "the lane did not answer");
    first_error(done.await.map_err(gone)?)
}

fn shutdown(control: &Rc<Control>, when: Shutdown) {
    match when {
        Shutdown::WaitForClients => control.drain(Order::DrainClients),
        Shutdown::WaitForServers => control.drain(Order::DrainServers),
        Shutdown::Now => {
            let control = Rc::clone(control);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(FAREWELL).await;
                control.finish(0);
            });
        }
    }
}
