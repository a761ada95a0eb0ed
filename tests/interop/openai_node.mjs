// The official OpenAI SDK for Node against an inferd over the scripted model. Prints what it saw.
// Judges nothing: the tests do.
import OpenAI, { APIUserAbortError, AzureOpenAI, NotFoundError, BadRequestError } from 'openai';
import { zodFunction, zodResponseFormat } from 'openai/helpers/zod';
import { z } from 'zod';

const url = process.argv[2];
const model = 'small';
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 });
const ask = (text, fields = {}) => ({ model, messages: [{ role: 'user', content: text }], ...fields });

const Person = z.object({ name: z.string(), age: z.number().int() });
const Weather = z.object({ city: z.string(), days: z.number().int().min(1).max(7) });
const person = zodResponseFormat(Person, 'person');

async function textOf(chunks) {
  let text = '';
  for await (const chunk of chunks) text += chunk.choices[0]?.delta?.content ?? '';
  return text;
}

const topics = {
  async create() {
    const answer = await client.chat.completions.create(ask('Say hello.'));
    return {
      object: answer.object,
      message: [answer.choices[0].message.role, answer.choices[0].message.content],
      finish: answer.choices[0].finish_reason,
      requestId: Boolean(answer._request_id),
    };
  },

  async streams() {
    const chunks = await client.chat.completions.create(ask('Say hello.', { stream: true }));
    const [one, other] = chunks.tee();
    const lines = await client.chat.completions.create(ask('Say hello.', { stream: true }));
    return [await textOf(one), await textOf(other), await new Response(lines.toReadableStream()).text().then(
      (text) => text.trim().split('\n').map((line) => JSON.parse(line).choices[0].delta.content ?? '').join(''),
    )];
  },

  async runnerEvents() {
    const runner = client.chat.completions.stream(
      ask('Say hello.', { logprobs: true, stream_options: { include_usage: true } }),
    );
    const kinds = new Set();
    let text = '';
    for (const kind of ['connect', 'chunk', 'content.delta', 'content.done', 'logprobs.content.delta',
      'logprobs.content.done', 'message', 'chatCompletion', 'finalContent', 'totalUsage', 'end', 'error']) {
      runner.on(kind, () => kinds.add(kind));
    }
    runner.on('content.delta', ({ delta }) => { text += delta; });
    const final = await runner.finalChatCompletion();
    await runner.done();
    return {
      kinds: [...kinds].sort(),
      text,
      final: final.choices[0].message.content,
      usage: (await runner.totalUsage()).completion_tokens === final.usage.completion_tokens,
    };
  },

  async runnerTools() {
    const tools = [zodFunction({ name: 'get_weather', parameters: Weather })];
    const runner = client.chat.completions.stream(ask('Weather in Paris and Rome?', { tools }));
    const pieces = ['', ''];
    const done = [];
    runner.on('tool_calls.function.arguments.delta', (event) => { pieces[event.index] += event.arguments_delta; });
    runner.on('tool_calls.function.arguments.done', (event) => done.push([event.name, event.parsed_arguments]));
    const [choice] = (await runner.finalChatCompletion()).choices;
    return {
      pieces: pieces.map((piece) => JSON.parse(piece)),
      done,
      final: choice.message.tool_calls.map((call) => call.function.parsed_arguments),
      finish: choice.finish_reason,
    };
  },

  async parse() {
    const parsed = await client.chat.completions.parse(ask('Who is it?', { response_format: person }));
    const streamed = client.chat.completions.stream(ask('Who is it?', { response_format: person }));
    return [
      parsed.choices[0].message.parsed,
      (await streamed.finalChatCompletion()).choices[0].message.parsed,
    ];
  },

  async runTools() {
    const told = {};
    for (const stream of [false, true]) {
      const called = [];
      const runner = client.chat.completions.runTools(ask('Weather in Paris?', {
        stream,
        tools: [{
          type: 'function',
          function: {
            name: 'get_weather',
            description: 'The weather of the coming days.',
            parameters: z.toJSONSchema(Weather),
            parse: (text) => Weather.parse(JSON.parse(text)),
            function: async (given) => { called.push(given); return `${given.days * 9} degrees`; },
          },
        }],
      }));
      told[stream ? 'streamed' : 'whole'] = {
        answer: await runner.finalContent(),
        called,
        roles: runner.messages.map((message) => message.role),
      };
    }
    return told;
  },

  async reasoning() {
    const { message } = (await client.chat.completions.create(ask('Think.'))).choices[0];
    return [message.reasoning_content, message.content];
  },

  async abort() {
    const seen = [];
    const runner = client.chat.completions.stream(ask('Go on.'));
    runner.on('abort', (error) => seen.push(error instanceof APIUserAbortError));
    runner.once('content.delta', () => runner.abort());
    await runner.done().catch((error) => seen.push(error instanceof APIUserAbortError));
    const chunks = await client.chat.completions.create(ask('Go on.', { stream: true }));
    for await (const chunk of chunks) { seen.push(chunk.choices.length); break; }
    const controller = new AbortController();
    const waiting = client.chat.completions.create(ask('Wait.'), { signal: controller.signal });
    setTimeout(() => controller.abort(), 300);
    await waiting.catch((error) => seen.push(error instanceof APIUserAbortError));
    return seen;
  },

  async raw() {
    const { data, response, request_id: id } =
      await client.chat.completions.create(ask('Say hello.')).withResponse();
    const plain = await client.chat.completions.create(ask('Say hello.')).asResponse();
    return [
      data.choices[0].message.content,
      response.headers.get('x-request-id') === id,
      (await plain.json()).object,
    ];
  },

  async errors() {
    const seen = [];
    for (const stream of [false, true]) {
      await client.chat.completions.create(ask('Say hello.', { temperature: 3, stream })).catch((error) => {
        seen.push([error instanceof BadRequestError, error.status, error.code, error.param]);
      });
    }
    await client.models.retrieve('none').catch((error) => {
      seen.push([error instanceof NotFoundError, error.status, error.code, error.param]);
    });
    let text = '';
    try {
      for await (const chunk of await client.chat.completions.create(ask('Break off.', { stream: true }))) {
        text += chunk.choices[0].delta.content ?? '';
      }
    } catch (error) {
      seen.push([text.length > 0, error.code]);
    }
    return seen;
  },

  async retries() {
    const patient = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 2 });
    return (await patient.chat.completions.create(ask('Fail at first.'))).choices[0].message.content;
  },

  async completions() {
    const prompt = 'The capital of France is';
    const whole = await client.completions.create({ model, prompt, echo: true, logprobs: 1 });
    let text = '';
    for await (const chunk of await client.completions.create({ model, prompt, stream: true })) {
      text += chunk.choices[0].text;
    }
    return [whole.choices[0].text, whole.choices[0].logprobs.tokens.join(''), text];
  },

  async models() {
    const ids = [];
    for await (const found of client.models.list()) ids.push(found.id);
    return [ids, (await client.models.retrieve('org/small')).id];
  },

  async azure() {
    const azure = new AzureOpenAI({ endpoint: url, apiVersion: '2024-10-21', apiKey: 'none', deployment: model });
    const answer = await azure.chat.completions.create(ask('Say hello.', { model: 'gpt-4o' }));
    return [answer.model, answer.choices[0].message.content];
  },
};

const seen = {};
for (const [name, topic] of Object.entries(topics)) {
  try {
    seen[name] = await topic();
  } catch (error) {
    seen[name] = { raised: error.stack };
  }
}
console.log(JSON.stringify(seen));
