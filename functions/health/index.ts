import { createLog } from '../_shared/log.ts'
import { createHandler } from './handler.ts'

Deno.serve(createHandler(createLog('health')))
