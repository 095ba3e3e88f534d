// supabase/flow-templates/*.json are the flow templates; the migration that brings them to every database is made of them:
// node --import tsx local/flow-templates.ts writes it, and a test compares.

import { readdir, readFile, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { z } from 'zod'
import { flowDefinition } from '../types/flow-definition.ts'

const FOLDER = new URL('../supabase/flow-templates/', import.meta.url)
export const MIGRATION = new URL('../supabase/migrations/20261120000830_flow_templates.sql', import.meta.url)

const flowTemplate = z.strictObject({
  key: z.string().regex(/^[a-z0-9_]{1,50}$/),
  name: z.string().min(1).max(120),
  vertical: z.string(),
  description: z.string(),
  definition: flowDefinition,
})
export type FlowTemplate = z.infer<typeof flowTemplate>

export async function readFlowTemplates(): Promise<FlowTemplate[]> {
  const names = (await readdir(FOLDER)).filter((name) => name.endsWith('.json')).sort()
  return await Promise.all(names.map(async (name) => {
    const template = flowTemplate.parse(JSON.parse(await readFile(new URL(name, FOLDER), 'utf8')))
    if (`${template.key}.json` !== name) throw new Error(`${name} has the key ${template.key}`)
    return template
  }))
}

export function migrationOf(templates: readonly FlowTemplate[]): string {
  const rows = templates.map(({ key, name, vertical, description, definition }) => {
    const columns = [key, name, vertical, description].map(quoted).join(',\n    ')
    return `  (\n    ${columns},\n    ${quoted(JSON.stringify(definition, null, 2))}\n  )`
  })
  return [
    '-- Flow templates: what an organization can begin with. Made by local/flow-templates.ts from supabase/flow-templates/.',
    '',
    'insert into public.flow_templates (key, name, vertical, description, definition) values',
    `${rows.join(',\n')};`,
    '',
  ].join('\n')
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", "''")}'`
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await writeFile(MIGRATION, migrationOf(await readFlowTemplates()))
}
