import { createRequire } from 'module'; const { Tokenizer } = createRequire(import.meta.url)('tokenizers');
const v={}; let k=0; for (let c=0;c<0x3000;c++) v[String.fromCodePoint(c)]=k++;
// which code points does each class match, over planes 0..2
const N=[]; for (let c=1;c<0x32000;c++) if(!(c>=0xd800&&c<=0xdfff)) N.push(c);
import fs from 'fs'; const out={};
for (const r of ["[[:punct:]]","\\p{Punct}","\\p{Punctuation}","\\w","\\s","\\d","\\p{L}","\\p{N}","\\p{M}","\\p{Lu}","\\p{Ll}","\\p{Lo}","\\p{Lm}","\\p{Lt}","\\p{S}","\\p{P}","[[:alpha:]]","[[:alnum:]]","[[:graph:]]","[[:print:]]","[[:cntrl:]]","[[:blank:]]","[[:space:]]","[[:upper:]]","[[:lower:]]","\\p{Han}","\\p{Latin}","\\p{Cyrillic}","\\p{Emoji}","(?i:s)","(?i:k)","(?i:[a-z])","\\p{Alphabetic}","\\p{Common}","\\p{Hangul}","\\p{C}","\\p{Z}"]) {
 let t; try { t = Tokenizer.fromString(JSON.stringify({version:"1.0",truncation:null,padding:null,added_tokens:[],normalizer:{type:"Replace",pattern:{Regex:r},content:"\u0001"},pre_tokenizer:null,post_processor:null,decoder:null,model:{type:"BPE",dropout:null,unk_token:null,continuing_subword_prefix:null,end_of_word_suffix:null,fuse_unk:false,byte_fallback:false,ignore_merges:false,vocab:{a:0},merges:[]}})); } catch(x) { console.log(r,String(x)); continue; }
 const n=t.getNormalizer(); const res=[]; 
 // separate chars by U+0002 so that matches are single
 for (let i=0;i<N.length;i+=2000) { const chunk=N.slice(i,i+2000); const s=chunk.map(c=>String.fromCodePoint(c)).join("\u0002"); const o=n.normalizeString(s);
   const parts=o.split("\u0002"); if (chunk.includes(2)) { let j=0; /* U+0002 itself makes extra parts */ } 
   if (parts.length===chunk.length) chunk.forEach((c,j)=>{ if(parts[j]==="\u0001"&&c!==1) res.push(c); }); else for (const c of chunk) if (c!==1&&c!==2&&n.normalizeString(String.fromCodePoint(c))==="\u0001") res.push(c); }
 const ranges=[]; for (const c of res) { const l=ranges[ranges.length-1]; if(l&&l[1]===c-1) l[1]=c; else ranges.push([c,c]); } out[r]=ranges; }
fs.writeFileSync("classes.json",JSON.stringify(out)); for (const r in out) console.log(r,out[r].length,JSON.stringify(out[r]).slice(0,60));
