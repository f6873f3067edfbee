//! Packer templates, in HCL and JSON: sources of type qemu, and their provisioners.
//!
//! Both forms are read into one tree of values first. Variables are replaced by their defaults.
//! Source: Packer's documentation of templates and of the QEMU builder.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hcl::eval::{Context, Evaluate};
use hcl::expr::{Expression, TraversalOperator};
use hcl::template::{Directive, Element};
use serde_json::{Map, Value as Json};

use super::Files;
use super::budget::Budget;
use super::draft::{Draft, ImageDraft, Item, Node, stem};
use super::traps::{Traps, hard_coded_manager};
use super::virt::{Purpose, Session, Word, size};
use crate::mistake::{Mistake, excerpt};
use crate::source::{FileId, Span};

/// Deepest nesting of brackets: the parser of HCL is recursive.
const MAX_DEPTH: usize = 60;

/// A block with its type, or an entry of a JSON template.
struct Part {
    kind: String,
    name: String,
    fields: Map<String, Json>,
    span: Span,
}

/// The parts of a template that say something here.
#[derive(Default)]
struct Template {
    sources: Vec<Part>,
    provisioners: Vec<Part>,
    others: Vec<(String, Span)>,
}

/// Reads a template; each of its sources becomes an image with all provisioners.
///
/// # Errors
/// If it is neither HCL nor JSON.
pub(super) fn read(
    draft: &mut Draft,
    traps: &mut Traps,
    file: FileId,
    text: &str,
    files: &Files<'_>,
) -> Result<(), Mistake> {
    let template = if text.trim_start().starts_with('{') {
        from_json(file, text)?
    } else {
        from_hcl(file, text)?
    };
    let budget = Budget::default();
    // More than this is refused as a whole.
    for source in template.sources.iter().take(super::MAX_IMAGES + 1) {
        let mut image = image(draft, traps, source);
        for part in &template.provisioners {
            let named = |list: &str| {
                let list = part.fields.get(list).and_then(Json::as_array)?;
                let mut names = list.iter().filter_map(Json::as_str);
                Some(names.any(|name| name.ends_with(&source.name) || name == source.kind))
            };
            if named("only") == Some(false) || named("except") == Some(true) {
                continue;
            }
            // Each source gets all provisioners, and each script all variables.
            if !budget.spend(part.cost()) {
                let message = "the provisioners of this template fill more than 4 MiB";
                let code = "kiln::import::too_large";
                return Err(Mistake::at(part.span, code, message, "too much with this one")
                    .help("import it in parts"));
            }
            provision(draft, traps, files, &mut image, part);
        }
        for (name, span) in &template.others {
            let help = "do it around kiln";
            traps.left(*span, format!("kiln has nothing for `{}`", excerpt(name)), help);
            image.note(format!("not imported: {name}"));
        }
        draft.images.push(image);
    }
    Ok(())
}

fn syntax(file: FileId, text: &str, line: usize, message: &str) -> Mistake {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let start = start.min(text.len());
    let len = text[start..].lines().next().map_or(0, str::len);
    let span = Span { file, offset: start, len };
    Mistake::at(span, "kiln::import::syntax", message, "cannot go on here")
        .help("`packer validate` may say more")
}

fn from_json(file: FileId, text: &str) -> Result<Template, Mistake> {
    let whole: Json = serde_json::from_str(text)
        .map_err(|error| syntax(file, text, error.line(), "this is not JSON"))?;
    let variables = whole.get("variables").and_then(Json::as_object).cloned().unwrap_or_default();
    let budget = Budget::default();
    let fill = |text: &str| {
        let mut text = text.to_owned();
        if !text.contains("{{") {
            return text;
        }
        for (name, value) in &variables {
            if let Some(value) = value.as_str() {
                for form in [format!("{{{{user `{name}`}}}}"), format!("{{{{ user `{name}` }}}}")] {
                    let count = text.matches(&form).count();
                    let grown = text.len() + count * value.len();
                    // Searching costs too: a hostile file may have many variables and long texts.
                    let cost = count * value.len() + text.len() / 64 + 1;
                    if grown <= super::MAX_BYTES && budget.spend(cost) && count > 0 {
                        text = text.replace(&form, value);
                    }
                }
            }
        }
        text
    };
    let mut template = Template::default();
    let mut cursor = 0;
    for (list, into) in [("builders", true), ("provisioners", false)] {
        for entry in whole.get(list).and_then(Json::as_array).into_iter().flatten() {
            let Some(fields) = entry.as_object() else { continue };
            let mut fields = fields.clone();
            fields.values_mut().for_each(|value| fill_in(value, &fill));
            let kind = fields.get("type").and_then(Json::as_str).unwrap_or_default().to_owned();
            let span = find(file, text, &format!("\"{kind}\""), &mut cursor);
            let name = fields.get("name").and_then(Json::as_str).unwrap_or(&kind).to_owned();
            let part = Part { kind, name, fields, span };
            if into { &mut template.sources } else { &mut template.provisioners }.push(part);
        }
    }
    if whole.get("post-processors").is_some() {
        let span = find(file, text, "\"post-processors\"", &mut 0);
        template.others.push(("post-processors".to_owned(), span));
    }
    Ok(template)
}

fn fill_in(value: &mut Json, fill: &dyn Fn(&str) -> String) {
    match value {
        Json::String(text) => *text = fill(text),
        Json::Array(list) => list.iter_mut().for_each(|value| fill_in(value, fill)),
        Json::Object(map) => map.values_mut().for_each(|value| fill_in(value, fill)),
        _ => {}
    }
}

/// The next place of a text behind the cursor, which moves there.
fn find(file: FileId, text: &str, needle: &str, cursor: &mut usize) -> Span {
    match text[*cursor..].find(needle) {
        Some(at) => {
            let offset = *cursor + at;
            *cursor = offset + needle.len();
            Span { file, offset, len: needle.len() }
        }
        None => Span { file, offset: 0, len: 0 },
    }
}

fn from_hcl(file: FileId, text: &str) -> Result<Template, Mistake> {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'{' | b'[' | b'(' => depth += 1,
            b'}' | b']' | b')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    if deepest > MAX_DEPTH {
        return Err(syntax(file, text, 1, "this template nests too deeply"));
    }
    let body = hcl::parse(text).map_err(|error| {
        let line = match &error {
            hcl::Error::Parse(error) => error.location().line(),
            _ => 1,
        };
        syntax(file, text, line, "this is not HCL")
    })?;
    let evaluator = evaluator(&body);
    let mut template = Template::default();
    let mut cursor = 0;
    for block in body.blocks() {
        let label = |at: usize| block.labels.get(at).map_or("", hcl::BlockLabel::as_str).to_owned();
        match block.identifier.as_str() {
            "source" => {
                let span = find(file, text, &format!("\"{}\"", label(0)), &mut cursor);
                let fields = fields(&block.body, &evaluator);
                template.sources.push(Part { kind: label(0), name: label(1), fields, span });
            }
            "build" => {
                for inner in block.body.blocks() {
                    let kind = inner.labels.first().map_or("", hcl::BlockLabel::as_str).to_owned();
                    let needle = match kind.as_str() {
                        "" => inner.identifier.as_str().to_owned(),
                        kind => format!("\"{kind}\""),
                    };
                    let span = find(file, text, &needle, &mut cursor);
                    if inner.identifier.as_str() == "provisioner" {
                        let fields = fields(&inner.body, &evaluator);
                        let name = kind.clone();
                        template.provisioners.push(Part { kind, name, fields, span });
                    } else if inner.identifier.as_str().starts_with("post-processor") {
                        template
                            .others
                            .push((format!("{} {kind}", inner.identifier.as_str()), span));
                    } else {
                        template.others.push((inner.identifier.as_str().to_owned(), span));
                    }
                }
            }
            _ => {}
        }
    }
    Ok(template)
}

/// The variables and locals of a template, with their defaults.
fn evaluator(body: &hcl::Body) -> Evaluator {
    let mut evaluator = Evaluator::default();
    let mut variables = hcl::Map::new();
    for block in body.blocks().filter(|block| block.identifier.as_str() == "variable") {
        let default = block.body.attributes().find(|known| known.key.as_str() == "default");
        let value = default.and_then(|default| evaluator.value(&default.expr));
        if let (Some(name), Some(value)) = (block.labels.first(), value) {
            variables.insert(name.as_str().to_owned(), value);
        }
    }
    evaluator.declare("var", variables);
    let mut locals = hcl::Map::new();
    for block in body.blocks().filter(|block| block.identifier.as_str() == "locals") {
        for attribute in block.body.attributes() {
            if let Some(value) = evaluator.value(&attribute.expr) {
                locals.insert(attribute.key.as_str().to_owned(), value);
            }
        }
    }
    evaluator.declare("local", locals);
    evaluator
}

fn fields(body: &hcl::Body, evaluator: &Evaluator) -> Map<String, Json> {
    let mut fields = Map::new();
    for attribute in body.attributes() {
        // What cannot be known stands as it was written.
        let value = match evaluator.value(&attribute.expr) {
            Some(value) => serde_json::to_value(value).unwrap_or(Json::Null),
            None => Json::String(hcl::format::to_string(&attribute.expr).unwrap_or_default()),
        };
        fields.insert(attribute.key.as_str().to_owned(), value);
    }
    fields
}

/// The expressions of a template, with the variables that they may name.
#[derive(Default)]
struct Evaluator {
    context: Context<'static>,
    variables: BTreeMap<&'static str, hcl::Map<String, hcl::Value>>,
    budget: Budget,
}

impl Evaluator {
    fn declare(&mut self, name: &'static str, values: hcl::Map<String, hcl::Value>) {
        self.context.declare_var(name, hcl::Value::Object(values.clone()));
        self.variables.insert(name, values);
    }

    /// What an expression means; `None` if that cannot be known, or would be too large to know.
    fn value(&self, expression: &Expression) -> Option<hcl::Value> {
        let size = self.size(expression)?;
        self.budget.spend(size).then(|| expression.evaluate(&self.context).ok()).flatten()
    }

    /// About how large the value of an expression is at most; `None` for one with `for`, which may
    /// take time and room without end where several stand inside each other.
    fn size(&self, expression: &Expression) -> Option<usize> {
        let all = |list: &[&Expression]| {
            list.iter().try_fold(1, |sum: usize, one| Some(sum.saturating_add(self.size(one)?)))
        };
        match expression {
            Expression::String(text) => Some(text.len()),
            Expression::Array(list) => all(&list.iter().collect::<Vec<_>>()),
            Expression::Object(object) => object.iter().try_fold(1, |sum: usize, (key, value)| {
                let key = match key {
                    hcl::ObjectKey::Expression(key) => self.size(key)?,
                    _ => 1,
                };
                Some(sum.saturating_add(key).saturating_add(self.size(value)?))
            }),
            Expression::TemplateExpr(template) => {
                self.template(&hcl::Template::from_expr(template).ok()?)
            }
            Expression::Variable(name) => Some(
                self.variables.get(name.as_str()).map_or(1, |map| map.values().map(cost).sum()),
            ),
            Expression::Traversal(traversal) => self.traversal(traversal),
            Expression::FuncCall(call) => all(&call.args.iter().collect::<Vec<_>>()),
            Expression::Parenthesis(inner) => self.size(inner),
            Expression::Conditional(choice) => {
                all(&[&choice.cond_expr, &choice.true_expr, &choice.false_expr])
            }
            Expression::Operation(operation) => match &**operation {
                hcl::expr::Operation::Unary(unary) => self.size(&unary.expr),
                hcl::expr::Operation::Binary(binary) => all(&[&binary.lhs_expr, &binary.rhs_expr]),
            },
            Expression::Null | Expression::Bool(_) | Expression::Number(_) => Some(1),
            // Also what later versions of the parser may know.
            _ => None,
        }
    }

    fn traversal(&self, traversal: &hcl::expr::Traversal) -> Option<usize> {
        let mut size = match (&traversal.expr, traversal.operators.first()) {
            (Expression::Variable(name), Some(TraversalOperator::GetAttr(field))) => {
                let map = self.variables.get(name.as_str());
                map.and_then(|map| map.get(field.as_str())).map_or(1, cost)
            }
            (expression, _) => self.size(expression)?,
        };
        for operator in &traversal.operators {
            if let TraversalOperator::Index(index) = operator {
                size = size.saturating_add(self.size(index)?);
            }
        }
        Some(size.saturating_mul(traversal.operators.len().max(1)))
    }

    fn template(&self, template: &hcl::Template) -> Option<usize> {
        template.elements().iter().try_fold(1, |sum: usize, element| {
            let size = match element {
                Element::Literal(text) => text.len(),
                Element::Interpolation(inner) => self.size(&inner.expr)?,
                Element::Directive(directive) => match &**directive {
                    Directive::If(choice) => {
                        let other = choice.false_template.as_ref();
                        let other = other.map_or(Some(0), |other| self.template(other))?;
                        self.size(&choice.cond_expr)?
                            .saturating_add(self.template(&choice.true_template)?)
                            .saturating_add(other)
                    }
                    Directive::For(_) => return None,
                },
            };
            Some(sum.saturating_add(size))
        })
    }
}

/// About how many bytes a value takes.
fn cost(value: &hcl::Value) -> usize {
    match value {
        hcl::Value::String(text) => text.len() + 1,
        hcl::Value::Array(list) => list.iter().map(cost).sum::<usize>() + 1,
        hcl::Value::Object(map) => {
            map.iter().map(|(name, value)| name.len() + cost(value)).sum::<usize>() + 1
        }
        _ => 1,
    }
}

impl Part {
    /// About how many bytes its steps take.
    fn cost(&self) -> usize {
        fn bytes(value: &Json) -> usize {
            match value {
                Json::String(text) => text.len() + 1,
                Json::Array(list) => list.iter().map(bytes).sum::<usize>() + 1,
                Json::Object(map) => map.iter().map(|(name, one)| name.len() + bytes(one)).sum(),
                _ => 1,
            }
        }
        let own: usize = self.fields.values().map(bytes).sum();
        let variables =
            ["environment_vars", "env"].iter().filter_map(|name| self.fields.get(*name));
        let variables: usize = variables.map(bytes).sum();
        let scripts = match self.fields.get("scripts") {
            Some(Json::Array(list)) => list.len(),
            _ => 0,
        };
        own.saturating_add(variables.saturating_mul(scripts))
    }

    fn text(&self, name: &str) -> Option<String> {
        match self.fields.get(name)? {
            Json::String(text) => Some(text.clone()),
            Json::Number(number) => Some(number.to_string()),
            Json::Bool(flag) => Some(flag.to_string()),
            _ => None,
        }
    }

    fn list(&self, name: &str) -> Vec<String> {
        match self.fields.get(name) {
            Some(Json::Array(list)) => {
                list.iter().filter_map(Json::as_str).map(str::to_owned).collect()
            }
            Some(Json::String(text)) => vec![text.clone()],
            _ => Vec::new(),
        }
    }
}

fn image(draft: &Draft, traps: &mut Traps, source: &Part) -> ImageDraft {
    let wanted = source.text("vm_name").unwrap_or_else(|| source.name.clone());
    let mut image = ImageDraft::new(draft.free_name(stem(&wanted)), source.span);
    let address = source.text("iso_url").or_else(|| source.list("iso_urls").into_iter().next());
    let disk = source.text("disk_image").is_some_and(|flag| flag == "true");
    match address {
        _ if source.kind != "qemu" => {
            let message = format!("kiln has no source like `{}`", excerpt(&source.kind));
            traps.left(source.span, message, "write the base of the image by hand");
            image.note(format!("not imported: source {} {}", source.kind, source.name));
        }
        Some(address) if disk => image.base = Some(base(traps, source, &address)),
        Some(address) => {
            let message = "this source installs a system from an ISO image";
            let help = "start from the distribution's cloud image: `base catalog` or `base url`";
            traps.left(source.span, message, help);
            image.note(format!("not imported: the installation from {address}\n{help}"));
        }
        None => {}
    }
    if let Some(text) = source.text("disk_size") {
        // A number alone is in MiB there.
        let text = if text.bytes().all(|c| c.is_ascii_digit()) { format!("{text}M") } else { text };
        if let Some(text) = size(&text) {
            image.base_property("size", &text);
        }
    }
    let format = source.text("format").unwrap_or_else(|| "qcow2".to_owned());
    let mut output = Node::new("output", [&format], source.span);
    if source.text("disk_compression").is_some_and(|flag| flag == "true") && format == "qcow2" {
        output = output.flag("compress", true);
    }
    image.outputs.push(output);
    if ["ssh_username", "ssh_password", "boot_command", "http_directory"]
        .iter()
        .any(|name| source.fields.contains_key(*name))
    {
        image.notes.push(
            "left out, as kiln starts no machine to build: boot commands, SSH and its user"
                .to_owned(),
        );
    }
    image
}

fn base(traps: &mut Traps, source: &Part, address: &str) -> Node {
    let Some((_, _)) = address.split_once("://").filter(|(scheme, _)| *scheme != "file") else {
        let path = address.trim_start_matches("file://");
        let name = path.rsplit('/').next().unwrap_or(path);
        if path.starts_with('/') || path.contains("..") {
            traps.push(
                source.span,
                "kiln::import::outside_path",
                format!("`{}` lies outside of the workspace", excerpt(path)),
                "a recipe names files relative to itself",
                format!("copy it beside the recipe, as `{}`", excerpt(name)),
            );
            return Node::new("base", ["file", name], source.span);
        }
        return Node::new("base", ["file", path.trim_start_matches("./")], source.span);
    };
    let mut node = Node::new("base", ["url", address], source.span);
    let checksum = source.text("iso_checksum").unwrap_or_default();
    let (kind, value) = checksum.split_once(':').unwrap_or(("", &checksum));
    node = match (kind, value.len()) {
        ("sha256" | "", 64) => node.text("sha256", value),
        ("sha512" | "", 128) => node.text("sha512", value),
        _ => {
            traps.push(
                source.span,
                "kiln::import::no_checksum",
                "this template does not say the checksum of its disk",
                "whatever comes is taken",
                "kiln writes the checksum into the lock file when it downloads it first",
            );
            node
        }
    };
    node
}

fn provision(
    draft: &mut Draft,
    traps: &mut Traps,
    files: &Files<'_>,
    image: &mut ImageDraft,
    part: &Part,
) {
    match part.kind.as_str() {
        "shell" => shell(draft, traps, files, image, part),
        "file" => file(draft, traps, files, image, part),
        kind => {
            let help = match kind {
                "shell-local" => "run it around kiln: nothing of a recipe runs on the host",
                kind if kind.starts_with("ansible") => {
                    "run the playbook in the guest: copy it with `copy-in`, and `run-command \"ansible-playbook -c local …\"`"
                }
                "breakpoint" => "leave it out",
                _ => "write what it does as steps",
            };
            let message = format!("kiln has no provisioner `{}`", excerpt(kind));
            traps.left(part.span, message, help);
            image.note(format!("not imported: provisioner {kind}\n{help}"));
        }
    }
}

fn shell(
    draft: &mut Draft,
    traps: &mut Traps,
    files: &Files<'_>,
    image: &mut ImageDraft,
    part: &Part,
) {
    let sudo = part.text("execute_command").is_none_or(|command| command.contains("sudo"));
    if !sudo {
        traps.push(
            part.span,
            "kiln::import::user",
            "steps of kiln run as root",
            "this ran as the user of the SSH connection",
            "write `runuser -u USER -- …` in the commands that need it",
        );
    }
    let mut variables = part.list("environment_vars");
    if let Some(Json::Object(map)) = part.fields.get("env") {
        variables.extend(
            map.iter()
                .filter_map(|(name, value)| value.as_str().map(|value| format!("{name}={value}"))),
        );
    }
    let mut prefix = String::new();
    for (name, value) in variables.iter().filter_map(|entry| entry.split_once('=')) {
        let value = value.replace('\'', "'\\''");
        let _ = writeln!(prefix, "export {name}='{value}'");
    }
    let inline = part.list("inline");
    if !inline.is_empty() {
        let script = format!("{prefix}{}", inline.join("\n"));
        if let Some(manager) = hard_coded_manager(&script) {
            traps.push(
                part.span,
                "kiln::import::package_manager",
                format!("this script installs packages with `{manager}`"),
                "works with one family of distributions only",
                "name the packages in an `install` step",
            );
        }
        let node = Node::new("run-command", [script], part.span).flag("network", true);
        image.items.push(Item::Step(node));
    }
    let mut scripts = part.list("scripts");
    scripts.extend(part.text("script"));
    for script in scripts {
        if !prefix.is_empty() {
            traps.push(
                part.span,
                "kiln::import::environment",
                format!("the variables of `{}` cannot be given to it", excerpt(&script)),
                "a script of kiln gets arguments, no environment",
                "set them at its top, or give them as arguments",
            );
            image.note(format!("not imported, for the script below:\n{}", prefix.trim_end()));
        }
        let word = Word { text: script, span: part.span, known: true };
        let mut session = Session::new(draft, traps, Purpose::Recipe, files);
        let path = session.local(&word);
        let node = Node::new("run", [path], part.span).flag("network", true);
        image.items.push(Item::Step(node));
    }
}

fn file(
    draft: &mut Draft,
    traps: &mut Traps,
    files: &Files<'_>,
    image: &mut ImageDraft,
    part: &Part,
) {
    let to = part.text("destination").unwrap_or_default();
    if let Some(content) = part.text("content") {
        image
            .items
            .push(Item::Step(Node::new("write", [to, content], part.span).flag("newline", false)));
        return;
    }
    let mut sources = part.list("sources");
    sources.extend(part.text("source"));
    for source in sources {
        let word = Word { text: source.clone(), span: part.span, known: true };
        let mut session = Session::new(draft, traps, Purpose::Recipe, files);
        let path = session.local(&word);
        let path = path.trim_end_matches('/');
        let node = match to.strip_suffix('/') {
            Some("") => Node::new("copy-in", [path, "/"], part.span),
            Some(directory) => Node::new("copy-in", [path, directory], part.span),
            None if source.ends_with('/') => Node::new("copy-in", [path, &to], part.span),
            None => Node::new("upload", [path, &to], part.span),
        };
        image.items.push(Item::Step(node));
    }
}
