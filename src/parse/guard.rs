//! What is checked before kdl's parser sees a text, and the plainer text that it then sees.
//!
//! kdl's parser needs exponential time for nested `/-`, overflows the stack on nested blocks and
//! comments, and goes on inside strings once it has met a mistake. So this one pass, which keeps an
//! explicit stack, bounds depth and number of nodes, finds the mistakes itself, and blanks every
//! comment and everything behind a `/-`. It knows the grammar of KDL 2, and no word of a recipe.

use super::scan::{Kind, Scanner, Token};
use crate::mistake::Mistake;
use crate::source::{FileId, Span};

/// How deep blocks may nest, those behind `/-` included.
pub const MAX_DEPTH: usize = 64;
/// How many nodes a file may have, those behind `/-` included.
pub const MAX_NODES: usize = 20_000;
/// After so many mistakes the rest of the text is not looked at.
const MAX_MISTAKES: usize = 50;

/// Checks a text and gives one of the same length for kdl's parser, with the same offsets.
pub(super) fn check(file: FileId, text: &str) -> Result<String, Vec<Mistake>> {
    let mut guard = Guard::new(file, text);
    guard.run();
    let Guard { mut mistakes, balance, scanner, mut blanks, .. } = guard;
    if scanner.faults.is_empty() {
        mistakes.extend(balance);
    }
    mistakes.extend(scanner.faults.iter().map(|fault| {
        let span = Span { file, offset: fault.start, len: fault.end - fault.start };
        Mistake::at(span, fault.code, fault.message, "here").help(fault.help)
    }));
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    // What lies behind a `/-` may hold others and comments, which were noted before it.
    blanks.sort_unstable();
    Ok(blanked(text, &blanks))
}

fn blanked(text: &str, blanks: &[(usize, usize)]) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut done = 0;
    for &(start, end) in blanks {
        if end > done {
            let start = start.max(done);
            plain.push_str(&text[done..start]);
            plain.extend(std::iter::repeat_n(' ', end - start));
            done = end;
        }
    }
    plain.push_str(&text[done..]);
    plain
}

/// Where in a node we are, and so what may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a node.
    Start,
    /// Behind a `/-` before a node.
    Dashed,
    /// Behind a node's name or an entry, without a space yet.
    Tight,
    /// Behind a space, where an entry or a block may start.
    Loose,
    /// Behind a space and a `/-`.
    DashedEntry,
    /// Behind `=`.
    Value,
    /// Behind a child block, where only another block or the node's end may follow.
    Done,
    /// Behind a child block and a `/-`.
    DashedBlock,
    /// Behind a mistake, up to the end of the node.
    Lost,
}

/// An open block.
struct Block {
    open: usize,
    /// Where the `/-` stands that hides this block alone.
    dashed: Option<usize>,
    /// Whether the node that it belongs to may have a further block.
    real: bool,
    /// Where the `/-` stands that hides the node that it belongs to.
    node_dash: Option<usize>,
}

struct Guard<'a> {
    file: FileId,
    scanner: Scanner<'a>,
    blocks: Vec<Block>,
    nodes: usize,
    state: State,
    /// Where the `/-` of the present node stands.
    node_dash: Option<usize>,
    /// Where the `/-` of the present entry or block stands.
    entry_dash: Option<usize>,
    /// Where the `/-` of the last entry stands, whose value may still follow.
    hidden_key: Option<usize>,
    /// Whether the last entry may turn out to be a property's key.
    keyable: bool,
    /// Whether the present node has had its block, hidden ones left aside.
    had_block: bool,
    blanks: Vec<(usize, usize)>,
    mistakes: Vec<Mistake>,
    /// Mistakes that an unclosed string would bring about too.
    balance: Vec<Mistake>,
    stopped: bool,
}

impl<'a> Guard<'a> {
    fn new(file: FileId, text: &'a str) -> Self {
        let scanner = Scanner::new(text);
        let bom = if text.starts_with('\u{feff}') { vec![(0, 3)] } else { Vec::new() };
        Self {
            file,
            scanner,
            blocks: Vec::new(),
            nodes: 0,
            state: State::Start,
            node_dash: None,
            entry_dash: None,
            hidden_key: None,
            keyable: false,
            had_block: false,
            blanks: bom,
            mistakes: Vec::new(),
            balance: Vec::new(),
            stopped: false,
        }
    }

    fn span(&self, start: usize, end: usize) -> Span {
        Span { file: self.file, offset: start, len: end - start }
    }

    fn wrong(&mut self, token: Token, code: &'static str, message: &str, help: &str) {
        let span = self.span(token.start, token.end);
        self.mistakes.push(Mistake::at(span, code, message, "here").help(help));
        self.state = State::Lost;
    }

    fn run(&mut self) {
        while !self.stopped {
            let token = self.scanner.next();
            match token.kind {
                Kind::Space => self.space(),
                Kind::Comment => {
                    self.blanks.push((token.start, token.end));
                    self.space();
                }
                Kind::Newline => self.newline(token),
                Kind::Semicolon => self.semicolon(token),
                Kind::Open => self.open(token),
                Kind::Close => self.close(token),
                Kind::Equals => self.equals(token),
                Kind::SlashDash => self.slash_dash(token),
                Kind::Word | Kind::Number | Kind::Keyword | Kind::Bad => self.value(token),
                Kind::End => {
                    self.end(token);
                    break;
                }
            }
            let found = self.mistakes.len() + self.balance.len() + self.scanner.faults.len();
            self.stopped |= found >= MAX_MISTAKES;
        }
    }

    fn space(&mut self) {
        if self.state == State::Tight {
            self.state = State::Loose;
        }
    }

    fn newline(&mut self, token: Token) {
        match self.state {
            State::Start | State::Dashed | State::DashedEntry | State::DashedBlock => {}
            State::Value => {
                self.no_value(token);
                self.finish(token.start);
            }
            State::Tight | State::Loose | State::Done | State::Lost => {
                self.finish(token.start);
            }
        }
    }

    fn semicolon(&mut self, token: Token) {
        match self.state {
            State::Start => {
                let help = "remove it; `;` stands behind a node, between two on one line";
                self.wrong(token, "kiln::parse::stray", "there is no node before this `;`", help);
                self.state = State::Start;
            }
            State::Dashed | State::DashedEntry | State::DashedBlock => {
                self.nothing_dashed(token);
                self.finish(token.end);
            }
            State::Value => {
                self.no_value(token);
                self.finish(token.end);
            }
            State::Tight | State::Loose | State::Done | State::Lost => {
                self.finish(token.end);
            }
        }
    }

    /// Ends the present node; one behind a `/-` is blanked up to `end`.
    fn finish(&mut self, end: usize) {
        self.entry_dash = None;
        self.hidden_key = None;
        if let Some(dash) = self.node_dash.take() {
            self.blanks.push((dash, end));
        }
        self.state = State::Start;
        self.keyable = false;
        self.had_block = false;
    }

    /// Reports a `/-` that hides nothing, as `token` ends what it stands in.
    fn nothing_dashed(&mut self, token: Token) {
        let start = self.entry_dash.or(self.node_dash).unwrap_or(token.start);
        let dash = Token { start, end: start + 2, ..token };
        let help = "remove it, or put it right before what it is to hide";
        self.wrong(dash, "kiln::parse::stray", "nothing follows this `/-`", help);
    }

    fn no_value(&mut self, token: Token) {
        let help = "write a value behind `=`, such as \"text\", 2 or #true";
        self.wrong(token, "kiln::parse::no_value", "a property has no value", help);
    }

    fn open(&mut self, token: Token) {
        if self.blocks.len() >= MAX_DEPTH {
            let message = "blocks nest deeper than 64 levels";
            let help = "a recipe needs three levels";
            self.wrong(token, "kiln::parse::too_deep", message, help);
            self.stopped = true;
            return;
        }
        let dashed = match self.state {
            State::DashedEntry | State::DashedBlock => self.entry_dash.take(),
            _ => None,
        };
        match self.state {
            State::Start | State::Dashed => {
                let help = "write the node's name before its block, on the same line";
                self.wrong(token, "kiln::parse::no_name", "this block belongs to no node", help);
            }
            State::Value => self.no_value(token),
            State::Done if self.had_block => {
                let help = "put everything into one block";
                self.wrong(token, "kiln::parse::two_blocks", "a node has one block", help);
            }
            _ => {}
        }
        let real = dashed.is_none() || self.had_block;
        self.blocks.push(Block {
            open: token.start,
            dashed,
            real,
            node_dash: self.node_dash.take(),
        });
        self.state = State::Start;
        self.keyable = false;
        self.had_block = false;
    }

    fn close(&mut self, token: Token) {
        match self.state {
            State::Dashed | State::DashedEntry | State::DashedBlock => self.nothing_dashed(token),
            State::Value => self.no_value(token),
            _ => {}
        }
        if self.state != State::Start {
            self.finish(token.start);
        }
        let Some(block) = self.blocks.pop() else {
            let span = self.span(token.start, token.end);
            self.balance.push(
                Mistake::at(span, "kiln::parse::unbalanced", "this `}` closes nothing", "here")
                    .help("remove it, or look for a block above that is closed too early"),
            );
            return;
        };
        if let Some(dash) = block.dashed {
            self.blanks.push((dash, token.end));
        }
        self.node_dash = block.node_dash;
        self.had_block = block.real;
        self.state = State::Done;
    }

    fn equals(&mut self, token: Token) {
        let fits = matches!(self.state, State::Tight | State::Loose) && self.keyable;
        if fits {
            self.keyable = false;
            self.state = State::Value;
        } else if self.state != State::Lost {
            let message = "there is no property's name before this `=`";
            let help = "write properties as `name=value`, behind the node's name and a space";
            self.wrong(token, "kiln::parse::stray", message, help);
        }
    }

    fn slash_dash(&mut self, token: Token) {
        match self.state {
            State::Start => {
                self.node_dash = Some(token.start);
                self.state = State::Dashed;
            }
            State::Loose => {
                self.entry_dash = Some(token.start);
                self.keyable = false;
                self.state = State::DashedEntry;
            }
            State::Done => {
                self.entry_dash = Some(token.start);
                self.state = State::DashedBlock;
            }
            State::Lost => {}
            State::Tight => {
                let help = "put a space before `/-`";
                self.wrong(token, "kiln::parse::no_space", "a space is missing here", help);
            }
            State::Value => self.no_value(token),
            State::Dashed | State::DashedEntry | State::DashedBlock => {
                let help = "write `/-` once before what it is to hide";
                self.wrong(token, "kiln::parse::stray", "this `/-` hides another `/-`", help);
            }
        }
    }

    fn value(&mut self, token: Token) {
        match self.state {
            State::Start | State::Dashed => self.name(token),
            State::Loose => {
                self.hidden_key = None;
                self.keyable = matches!(token.kind, Kind::Word | Kind::Bad);
                self.state = State::Tight;
            }
            State::DashedEntry => {
                self.hidden_key = self.entry_dash.take();
                self.blanks.extend(self.hidden_key.map(|dash| (dash, token.end)));
                self.keyable = matches!(token.kind, Kind::Word | Kind::Bad);
                self.state = State::Tight;
            }
            State::Value => {
                self.blanks.extend(self.hidden_key.take().map(|dash| (dash, token.end)));
                self.keyable = false;
                self.state = State::Tight;
            }
            State::Tight => {
                // A token that is none has been reported; what touches it would be a cascade.
                if token.kind == Kind::Bad {
                    self.state = State::Lost;
                } else {
                    let help = "separate arguments and properties by spaces";
                    self.wrong(token, "kiln::parse::no_space", "a space is missing here", help);
                }
            }
            State::Done | State::DashedBlock => {
                let message = "a node ends with its block";
                let help = "start the next node on a line of its own; arguments stand before `{`";
                self.wrong(token, "kiln::parse::after_block", message, help);
            }
            State::Lost => {}
        }
    }

    fn name(&mut self, token: Token) {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            let message = "there are more than 20000 nodes in this file";
            let help = "split the recipe into several files";
            self.wrong(token, "kiln::parse::too_many_nodes", message, help);
            self.stopped = true;
            return;
        }
        self.keyable = false;
        self.had_block = false;
        match token.kind {
            Kind::Word => self.state = State::Tight,
            Kind::Bad => self.state = State::Lost,
            _ => {
                let help = "a line starts with the name of a node, such as `install`";
                self.wrong(token, "kiln::parse::no_name", "this is no name of a node", help);
            }
        }
    }

    fn end(&mut self, token: Token) {
        match self.state {
            State::Dashed | State::DashedEntry | State::DashedBlock => self.nothing_dashed(token),
            State::Value => self.no_value(token),
            _ => {}
        }
        if self.state != State::Start {
            self.finish(token.start);
        }
        // Blocks are closed by the next `}`, so the ones left open are the outer ones.
        if let Some(block) = self.blocks.first() {
            let span = self.span(block.open, block.open + 1);
            let message = "this block is never closed";
            self.balance.push(
                Mistake::at(span, "kiln::parse::unbalanced", message, "opened here")
                    .help("close it with `}`; a block further in may lack its own"),
            );
        }
    }
}
