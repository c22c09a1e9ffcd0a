// Ollama's npm client against a server: address and package given, one JSON object of findings on stdout.
import { pathToFileURL } from 'node:url'

const [, , host, packagePath] = process.argv
const { Ollama } = await import(pathToFileURL(packagePath).href)
const ollama = new Ollama({ host })
const options = { temperature: 0, num_predict: 12 }
const messages = [{ role: 'user', content: 'Hi' }]
const found = {}

const whole = await ollama.generate({ model: 'one', prompt: 'Hello', options })
let streamed = ''
let last
for await (const part of await ollama.generate({ model: 'one', prompt: 'Hello', options, stream: true })) {
  streamed += part.response
  last = part
}
found.generate = [whole.response, streamed, last.done, last.eval_count, last.context.length === whole.context.length]

const chat = await ollama.chat({ model: 'one', messages, options })
let said = ''
for await (const part of await ollama.chat({ model: 'one', messages, options, stream: true })) said += part.message.content
found.chat = [chat.message.content, said, chat.message.role]

const colour = await ollama.chat({ model: 'one', messages, format: { enum: ['red', 'green'] }, options: { num_predict: 20 } })
found.format = JSON.parse(colour.message.content)

const embedded = await ollama.embed({ model: 'one', input: ['a', 'b'] })
found.embed = [embedded.embeddings.length, embedded.embeddings[0].length]

await ollama.create({ model: 'npm', from: 'one', system: 'Be brief.' })
await ollama.copy({ source: 'npm', destination: 'npm2' })
found.list = (await ollama.list()).models.map((m) => m.name)
found.show = (await ollama.show({ model: 'npm2' })).system
const steps = []
for await (const step of await ollama.create({ model: 'npm3', from: 'npm', stream: true })) steps.push(step.status)
found.create = steps.at(-1)
for (const model of ['npm', 'npm2', 'npm3']) await ollama.delete({ model })
found.ps = (await ollama.ps()).models.length > 0
found.error = await ollama.generate({ model: 'nothing', prompt: 'x' }).catch((error) => `${error.status_code} ${error.message}`)

console.log(JSON.stringify(found))
