//! The list of tensors in a `PyTorch` checkpoint: the part of Python's pickle format that
//! `torch.save` writes for a dictionary of tensors (`torch._utils._rebuild_tensor_v2`).
//!
//! A pickle is a program for a small stack machine, and Python's own reader calls whatever function
//! the program names. This one calls nothing: a call is kept as data, and only three known ones are
//! looked at. All values live in one list and refer to each other by place in it, so that a hostile
//! pickle can neither nest deeply enough to overflow the stack, nor grow by copying, nor loop: each
//! instruction takes at least one byte and adds at most one value. (candle's reader copies values
//! and nests them; it panics, runs out of stack or memory on such input.)

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use thiserror::Error;

/// Dimensions of a tensor; weights have four at most.
const MOST_DIMENSIONS: usize = 8;
/// Bytes of a tensor's name, or a storage's. Those of models have about a hundred.
const MOST_NAME: usize = 512;
/// Characters of a name that an error shows.
const SHOWN: usize = 60;
/// Tensors of a model; one of 48 layers has about 800.
pub(super) const MOST_TENSORS: usize = 20_000;

/// Why a pickle is not a list of tensors.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum PickleError {
    #[error("the list of tensors ends early")]
    Truncated,
    #[error("the list of tensors has the unknown instruction {0:#04x}")]
    Instruction(u8),
    #[error("the list of tensors is broken: {0}")]
    Broken(&'static str),
    #[error("tensor '{name}' {problem}")]
    Tensor { name: String, problem: &'static str },
    #[error("it lists more than {MOST_TENSORS} tensors")]
    Tensors,
    #[error("it is not a dictionary of tensors")]
    NotTensors,
}

/// A tensor as a pickle describes it: a view of a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Description {
    pub(super) name: String,
    /// `FloatStorage` and the like.
    pub(super) storage_class: String,
    /// Name of the file with the numbers, in the archive's folder `data`.
    pub(super) storage: String,
    /// The view's first number, counted in numbers.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// Distance between neighbours along each dimension, counted in numbers.
    pub(super) strides: Vec<usize>,
}

/// The tensors that `pickle` lists. Entries that are no tensors are left out.
pub(super) fn tensors(pickle: &[u8]) -> Result<Vec<Description>, PickleError> {
    let mut machine = Machine {
        rest: pickle,
        values: Vec::new(),
        stack: Vec::new(),
        memo: HashMap::new(),
    };
    let root = machine.run()?;
    machine.tensors(root)
}

/// Place of a value in [`Machine::values`].
type Place = usize;

enum Value<'a> {
    /// Nothing that matters here.
    Other,
    Mark,
    Integer(i64),
    Text(&'a str),
    /// A class or function: module and name.
    Global(&'a str, &'a str),
    List(Vec<Place>),
    Dict(Vec<(Place, Place)>),
    /// What a call would give: function and arguments.
    Call(Place, Place),
    /// A storage, by the tuple that says where it is.
    Storage(Place),
}

struct Machine<'a> {
    rest: &'a [u8],
    values: Vec<Value<'a>>,
    stack: Vec<Place>,
    memo: HashMap<usize, Place>,
}

impl<'a> Machine<'a> {
    /// Runs to the end and returns the result's place.
    fn run(&mut self) -> Result<Place, PickleError> {
        loop {
            let [instruction] = self.bytes()?;
            match instruction {
                b'.' => return self.pop(),
                0x80 => drop(self.bytes::<1>()?), // PROTO
                b'N' | 0x88 | 0x89 => self.push(Value::Other),
                b'G' => self.skip(8)?,
                b'K' | b'M' | b'J' | 0x8a => self.integer(instruction)?,
                b'X' => self.text()?,
                b'c' => self.global()?,
                b'(' => self.push(Value::Mark),
                b')' | b']' => self.push(Value::List(Vec::new())),
                b'}' => self.push(Value::Dict(Vec::new())),
                b't' => self.tuple()?,
                0x85..=0x87 => self.short_tuple(usize::from(instruction - 0x84))?,
                b'a' | b'e' => self.append(instruction == b'e')?,
                b's' | b'u' => self.set_items(instruction == b'u')?,
                b'R' | 0x81 => self.call()?,
                b'b' => drop(self.pop()?), // BUILD: attributes of what stays on the stack
                b'Q' => self.storage()?,
                b'q' | b'r' => self.put(instruction == b'r')?,
                b'h' | b'j' => self.get(instruction == b'j')?,
                unknown => return Err(PickleError::Instruction(unknown)),
            }
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], PickleError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(PickleError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(PickleError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn line(&mut self) -> Result<&'a str, PickleError> {
        let end = self.rest.iter().position(|byte| *byte == b'\n');
        let line = self.take(end.ok_or(PickleError::Truncated)?)?;
        self.take(1)?;
        utf8(line)
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn pop(&mut self) -> Result<Place, PickleError> {
        self.stack
            .pop()
            .ok_or(PickleError::Broken("the stack is empty"))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Place>, PickleError> {
        let is_mark = |place: &Place| matches!(self.values[*place], Value::Mark);
        let mark = self.stack.iter().rposition(is_mark);
        let mark = mark.ok_or(PickleError::Broken("there is no mark"))?;
        let above = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(above)
    }

    fn skip(&mut self, length: usize) -> Result<(), PickleError> {
        self.take(length)?;
        self.push(Value::Other);
        Ok(())
    }

    fn integer(&mut self, instruction: u8) -> Result<(), PickleError> {
        let length = match instruction {
            b'K' => 1,
            b'M' => 2,
            b'J' => 4,
            _ => usize::from(self.bytes::<1>()?[0]),
        };
        let digits = self.take(length)?;
        let signed = length > 2 || instruction == 0x8a;
        let fill = match digits.last() {
            Some(last) if signed && *last >= 0x80 => 0xff,
            _ => 0,
        };
        let mut number = [fill; 8];
        let Some(low) = number.get_mut(..length) else {
            return Err(PickleError::Broken("a number has more than 64 bits"));
        };
        low.copy_from_slice(digits);
        self.push(Value::Integer(i64::from_le_bytes(number)));
        Ok(())
    }

    fn text(&mut self) -> Result<(), PickleError> {
        let length = u32::from_le_bytes(self.bytes()?);
        let length = usize::try_from(length).map_err(|_| PickleError::Truncated)?;
        let text = utf8(self.take(length)?)?;
        self.push(Value::Text(text));
        Ok(())
    }

    fn global(&mut self) -> Result<(), PickleError> {
        let (module, name) = (self.line()?, self.line()?);
        self.push(Value::Global(module, name));
        Ok(())
    }

    fn tuple(&mut self) -> Result<(), PickleError> {
        let items = self.pop_to_mark()?;
        self.push(Value::List(items));
        Ok(())
    }

    fn short_tuple(&mut self, length: usize) -> Result<(), PickleError> {
        let start = self.stack.len().checked_sub(length);
        let start = start.ok_or(PickleError::Broken("the stack is empty"))?;
        let items = self.stack.split_off(start);
        self.push(Value::List(items));
        Ok(())
    }

    fn append(&mut self, many: bool) -> Result<(), PickleError> {
        let new = if many {
            self.pop_to_mark()?
        } else {
            vec![self.pop()?]
        };
        match self.top()? {
            Value::List(items) => items.extend(new),
            _ => return Err(PickleError::Broken("something is appended to no list")),
        }
        Ok(())
    }

    fn set_items(&mut self, many: bool) -> Result<(), PickleError> {
        let new = if many {
            self.pop_to_mark()?
        } else {
            let value = self.pop()?;
            vec![self.pop()?, value]
        };
        let (pairs, rest) = new.as_chunks::<2>();
        match self.top()? {
            Value::Dict(items) if rest.is_empty() => {
                items.extend(pairs.iter().map(|[key, value]| (*key, *value)));
                Ok(())
            }
            _ => Err(PickleError::Broken("a dictionary is filled wrongly")),
        }
    }

    fn top(&mut self) -> Result<&mut Value<'a>, PickleError> {
        let top = self.stack.last().map(|place| &mut self.values[*place]);
        top.ok_or(PickleError::Broken("the stack is empty"))
    }

    fn call(&mut self) -> Result<(), PickleError> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let made = match self.values[function] {
            Value::Global("collections", "OrderedDict") => Value::Dict(Vec::new()),
            _ => Value::Call(function, arguments),
        };
        self.push(made);
        Ok(())
    }

    fn storage(&mut self) -> Result<(), PickleError> {
        let place = self.pop()?;
        self.push(Value::Storage(place));
        Ok(())
    }

    fn memo_number(&mut self, long: bool) -> Result<usize, PickleError> {
        if !long {
            return Ok(usize::from(self.bytes::<1>()?[0]));
        }
        let number = u32::from_le_bytes(self.bytes()?);
        usize::try_from(number).map_err(|_| PickleError::Truncated)
    }

    fn put(&mut self, long: bool) -> Result<(), PickleError> {
        let number = self.memo_number(long)?;
        let top = *self
            .stack
            .last()
            .ok_or(PickleError::Broken("the stack is empty"))?;
        self.memo.insert(number, top);
        Ok(())
    }

    fn get(&mut self, long: bool) -> Result<(), PickleError> {
        let number = self.memo_number(long)?;
        let place = self.memo.get(&number).copied();
        let place = place.ok_or(PickleError::Broken("the memo lacks a value"))?;
        self.stack.push(place);
        Ok(())
    }

    fn tensors(&self, root: Place) -> Result<Vec<Description>, PickleError> {
        let Value::Dict(items) = &self.values[root] else {
            return Err(PickleError::NotTensors);
        };
        let mut tensors = Vec::new();
        for (name, value) in items {
            let Value::Text(name) = self.values[*name] else {
                continue;
            };
            let Some(arguments) = self.rebuilt(*value) else {
                continue;
            };
            if tensors.len() == MOST_TENSORS {
                return Err(PickleError::Tensors);
            }
            let described = self.describe(name, arguments);
            tensors.push(described.ok_or_else(|| PickleError::Tensor {
                name: name.chars().take(SHOWN).collect(),
                problem: "is described in an unknown way, or has more than 8 dimensions or a name of more than 512 bytes",
            })?);
        }
        Ok(tensors)
    }

    /// The arguments of the call that makes a tensor; a parameter is a tensor in a wrapper.
    fn rebuilt(&self, value: Place) -> Option<&[Place]> {
        match self.called(value)? {
            ("_rebuild_tensor_v2", arguments) => Some(arguments),
            ("_rebuild_parameter", [tensor, ..]) => match self.called(*tensor)? {
                ("_rebuild_tensor_v2", arguments) => Some(arguments),
                _ => None,
            },
            _ => None,
        }
    }

    fn called(&self, value: Place) -> Option<(&str, &[Place])> {
        let Value::Call(function, arguments) = self.values[value] else {
            return None;
        };
        match (&self.values[function], &self.values[arguments]) {
            (Value::Global("torch._utils", name), Value::List(arguments)) => {
                Some((*name, arguments))
            }
            _ => None,
        }
    }

    /// Storage, offset, shape, strides are the first arguments. A storage is the tuple
    /// `("storage", class, file, device, length)`.
    fn describe(&self, name: &str, arguments: &[Place]) -> Option<Description> {
        let [storage, offset, shape, strides, ..] = arguments else {
            return None;
        };
        let is_short = |text: &str| text.len() <= MOST_NAME;
        let Value::Storage(storage) = self.values[*storage] else {
            return None;
        };
        let [_, class, file, ..] = self.list(storage)? else {
            return None;
        };
        let (Value::Global("torch", class), Value::Text(file)) =
            (&self.values[*class], &self.values[*file])
        else {
            return None;
        };
        if ![name, class, file].into_iter().all(is_short) {
            return None;
        }
        Some(Description {
            name: name.to_owned(),
            storage_class: (*class).to_owned(),
            storage: (*file).to_owned(),
            offset: self.count(*offset)?,
            shape: self.counts(*shape)?,
            strides: self.counts(*strides)?,
        })
    }

    fn list(&self, place: Place) -> Option<&[Place]> {
        match &self.values[place] {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    fn counts(&self, place: Place) -> Option<Vec<usize>> {
        let items = self.list(place)?;
        if items.len() > MOST_DIMENSIONS {
            return None;
        }
        let items = items.iter();
        items.map(|item| self.count(*item)).collect()
    }

    fn count(&self, place: Place) -> Option<usize> {
        match self.values[place] {
            Value::Integer(number) => usize::try_from(number).ok(),
            _ => None,
        }
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, PickleError> {
    str::from_utf8(bytes).map_err(|_| PickleError::Broken("a text is not valid UTF-8"))
}
