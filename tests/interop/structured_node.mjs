// The official OpenAI SDK for Node where a real engine holds the model to a form. Prints what it saw.
// Judges nothing: the tests do.
import OpenAI from 'openai';
import { zodFunction, zodResponseFormat } from 'openai/helpers/zod';
import { z } from 'zod';

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: 'none', maxRetries: 0 });
const Sale = z.object({
  color: z.enum(['red', 'dark blue']),
  price: z.number().int().min(1).max(9),
  owner: z.literal('ada').nullable(),
});
const ask = {
  model: 'smollm2',
  messages: [{ role: 'user', content: 'Which car is it?' }],
  temperature: 0,
  max_tokens: 120,
};
const fits = (value) => Sale.safeParse(value).success;

const topics = {
  async parse() {
    const answer = await client.chat.completions.parse({ ...ask, response_format: zodResponseFormat(Sale, 'sale') });
    return fits(answer.choices[0].message.parsed);
  },

  async stream() {
    const runner = client.chat.completions.stream({ ...ask, response_format: zodResponseFormat(Sale, 'sale') });
    return fits((await runner.finalChatCompletion()).choices[0].message.parsed);
  },

  async required() {
    const tools = [zodFunction({ name: 'sell', parameters: Sale })];
    const [choice] = (await client.chat.completions.parse({
      ...ask, tools, tool_choice: 'required', parallel_tool_calls: false,
    })).choices;
    const { tool_calls: calls } = choice.message;
    return [calls.length, fits(calls[0].function.parsed_arguments), choice.finish_reason];
  },

  async runTools() {
    const sold = [];
    const runner = client.chat.completions.runTools({
      ...ask,
      stream: true,
      tools: [{
        type: 'function',
        function: {
          name: 'sell',
          parameters: z.toJSONSchema(Sale),
          parse: (text) => Sale.parse(JSON.parse(text)),
          function: (sale) => { sold.push(sale); return 'sold'; },
        },
      }],
      tool_choice: { type: 'function', function: { name: 'sell' } },
    });
    await runner.done();
    return [sold.length, runner.messages.map((message) => message.role)];
  },
};

const told = await Promise.all(Object.values(topics).map((topic) => topic().catch((error) => error.stack)));
console.log(JSON.stringify(Object.fromEntries(Object.keys(topics).map((name, index) => [name, told[index]]))));
