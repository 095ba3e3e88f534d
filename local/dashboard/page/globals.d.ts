// What the two classic scripts before main.js leave behind. An app with a bundler imports them instead.

declare const supabase: typeof import('@supabase/supabase-js')
declare const Chart: typeof import('chart.js/auto').Chart
